"""`raybench robustness`: what other light, blur, noise or a shift cost each model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from raybench._api.running import open_run
from raybench.analysis.robustness import IMAGES
from raybench.cli.terminal import UNITS_FAILED, RunName, labels_of, out

NUMBERS = ("image_auroc", "lower", "false_alarm_rate", "recall")


def robustness(
    name: RunName,
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    models: Annotated[str, typer.Option(help="Labels of the models, with commas between; default: all.")] = "",
    images: Annotated[int, typer.Option(min=2, help="Test images to perturb, at most; half OK, half NG.")] = IMAGES,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, or this machine.")] = None,
) -> None:
    """Score perturbed test images with a line's trained models. Nothing is trained. The run must be finished."""
    frame = open_run(name).robustness(line, models=labels_of(models), images=images, address=address)
    headers = ("model", "images are", "image AUROC", "lower by", "false alarms", "recall")
    table = Table(*headers, box=None, header_style="bold")
    for row in frame.reset_index().to_dict("records"):
        cells = [f"failed: {row['failure']}"] if row["failure"] else [_shown(row, number) for number in NUMBERS]
        table.add_row(row["model"], row["perturbation"], *cells)
    out.print(table, markup=False)
    for text in frame.attrs["conclusions"]:
        out.print(text, highlight=False, markup=False, soft_wrap=True)
    if frame["failure"].any():
        raise typer.Exit(UNITS_FAILED)


def _shown(row: Mapping[Hashable, Any], number: str) -> str:
    value, low, high = (row[f"{number}{end}"] for end in ("", "_low", "_high"))
    if value != value:  # undefined: pandas has NaN for it
        return "–"
    return f"{value:.3f} ({low:.3f}–{high:.3f})"
