"""`raybench report`: the comparison of everything done so far."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raybench.analysis.board import Board, board_json
from raybench.cli.terminal import Json, OutFolder, RunName, err, out, print_json
from raybench.config.plan import Plan, plan_of
from raybench.errors import UnknownName
from raybench.report.console import console_board
from raybench.report.publish import copy_report, publish_again


def report(
    name: RunName,
    out_folder: OutFolder = Path("out"),
    lines: Annotated[list[str] | None, typer.Option("--line", help="Show this line only (name or pattern).")] = None,
    as_json: Json = False,
) -> None:
    """Build the comparison of everything done so far, and show it."""
    plan = plan_of(name)
    board = publish_again(plan)
    shown = _matching_lines(board, lines or ())
    if as_json:
        print_json(board_json(board))
    else:
        out.print(console_board(board, shown))
    print_copy(plan, out_folder, as_json)


def _matching_lines(board: Board, patterns: Sequence[str]) -> list[str]:
    """The lines of the board that a pattern matches. Raises UnknownName for a pattern that matches none."""
    for pattern in patterns:
        if not fnmatch.filter(board.lines, pattern):
            raise UnknownName("line", pattern, board.lines)
    return [line for line in board.lines if any(fnmatch.fnmatchcase(line, pattern) for pattern in patterns)]


def print_copy(plan: Plan, out_folder: Path, as_json: bool) -> None:
    """Copy the report to a local folder, and print where its page is."""
    console = err if as_json else out
    console.print(f"report: {copy_report(plan, out_folder)}", soft_wrap=True, highlight=False)
