"""`raybench verify`: whether a run or a line is as it was written."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.table import Table

from raybench.cli.terminal import DAMAGED, OK, Json, out, print_json
from raybench.runs import verify as verifying
from raybench.runs.run import encode


def verify(
    name: Annotated[str, typer.Argument(help="An experiment file, STORE/runs/NAME, or a line: STORE/lines/NAME.")],
    as_json: Json = False,
) -> None:
    """Read everything of a run or a line again, and list the objects that are not as they were written."""
    found = verifying.verify(name)
    if as_json:
        print_json(encode(found))
        sys.exit(DAMAGED if found.problems else OK)
    table = Table("what", "objects", "MB", "problems", box=None, header_style="bold")
    for kind, tally in found.tallies.items():
        table.add_row(kind, str(tally.objects), f"{tally.size / 1e6:.1f}", str(tally.problems))
    out.print(table)
    for problem in found.problems:
        out.print(f"{problem.uri}: {problem.what}", style="red", markup=False, soft_wrap=True, highlight=False)
    if found.problems:
        sys.exit(DAMAGED)
    out.print("everything is as it was written", highlight=False)
