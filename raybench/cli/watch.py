"""`raybench watch`: a line over time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from raybench.analysis.watch import Watch, watch_line
from raybench.cli.terminal import CHANGED, Json, RunName, out, print_json
from raybench.config.plan import plan_of
from raybench.report.textfile import write_gauges
from raybench.runs.run import encode

SHOWN = 31
COLUMNS = ("images", "flagged", "excess", "brightness", "contrast", "sharpness", "odd_sizes")


def watch(
    name: RunName,
    line: Annotated[str, typer.Option("--line", help="Product line.")],
    model: Annotated[str | None, typer.Option(help="Label of the model; default: the one the verdict names.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only batches from this time on, as after the line was seen to.")
    ] = None,
    defects: Annotated[float, typer.Option(help="Share of NG images that is usual on the line.")] = 0.0,
    prometheus: Annotated[
        Path | None, typer.Option(help="Write gauges for node_exporter's textfile collector: a name with .prom.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what `raybench predict` found on a line over time: has it changed, does the threshold hold?

    Exit code 4 if it has changed.
    """
    found = watch_line(plan_of(name), line, model, since, defects)
    if prometheus:
        write_gauges(found, prometheus)
    if as_json:
        print_json(encode(found))
    else:
        _print(found)
    if found.changed:
        raise typer.Exit(CHANGED)


def _print(found: Watch) -> None:
    frame = found.to_frame().tail(SHOWN)
    table = Table("time", *(name.replace("_", " ") for name in COLUMNS), box=None, header_style="bold")
    for at, row in frame.iterrows():
        table.add_row(str(at)[:16].replace("T", " "), *(_cell(row.get(name)) for name in COLUMNS))
    out.print(table, markup=False)
    out.print(f"{found.line}, {found.model}: {len(found.batches)} batches", style="bold", markup=False, highlight=False)
    style = "yellow" if found.changed else None
    for sentence in found.sentences:
        out.print(sentence, style=style, markup=False, highlight=False)


def _cell(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) and value != int(value) else f"{value:g}"
