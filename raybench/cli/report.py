"""`raybench report`: the comparison of everything done so far."""

from __future__ import annotations

from pathlib import Path

from raybench.analysis.board import board_json
from raybench.cli.terminal import Json, Lines, OutFolder, RunName, err, matching, out, print_json
from raybench.config.plan import Plan, plan_of
from raybench.report.console import console_board
from raybench.report.publish import copy_report, publish_again


def report(
    name: RunName,
    out_folder: OutFolder = Path("out"),
    lines: Lines = None,
    as_json: Json = False,
) -> None:
    """Build the comparison of everything done so far, and show it."""
    plan = plan_of(name)
    board = publish_again(plan)
    shown = matching(board.lines, lines)
    if as_json:
        print_json(board_json(board))
    else:
        out.print(console_board(board, shown))
    print_copy(plan, out_folder, as_json)


def print_copy(plan: Plan, out_folder: Path, as_json: bool) -> None:
    """Copy the report to a local folder, and print where its page is."""
    console = err if as_json else out
    console.print(f"report: {copy_report(plan, out_folder)}", soft_wrap=True, highlight=False)
