"""`raybench learning-curve`: how many OK images a line needs."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.table import Table

from raybench._api.running import open_run
from raybench.analysis.learning_curve import SIZES
from raybench.cli.terminal import RunName, labels_of, out
from raybench.errors import InputError

NUMBERS = ("image_auroc", "more")


def learning_curve(
    name: RunName,
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    sizes: Annotated[str, typer.Option(help="Numbers of OK images, with commas between.")] = ",".join(map(str, SIZES)),
    models: Annotated[str, typer.Option(help="Labels of the models, with commas between; default: all.")] = "",
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, or this machine.")] = None,
) -> None:
    """Train a line's models on fewer OK images, and say how many it needs. The run must be finished."""
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", sizes):
        raise InputError(f"--sizes {sizes!r}: give numbers with commas between, as in 10,25,50")
    numbers = [int(size) for size in sizes.split(",")]
    frame = open_run(name).learning_curve(line, numbers, models=labels_of(models), address=address)
    headers = ("model", "OK images", "image AUROC", "higher with all by", "threshold")
    table = Table(*headers, box=None, header_style="bold")
    for row in frame.reset_index().to_dict("records"):
        auroc, more = (f"{row[name]:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})" for name in NUMBERS)
        table.add_row(
            row["model"], str(row["images"]), auroc, more, "yes" if row["has_threshold"] else "too few images"
        )
    out.print(table)
    for text in frame.attrs["conclusions"]:
        out.print(text, highlight=False, soft_wrap=True)
