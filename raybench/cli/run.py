"""`raybench run`: train, score, measure and compare."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from raybench._api.execute import execute
from raybench.analysis.board import Board, board_json
from raybench.cli.report import print_copy
from raybench.cli.terminal import OK, STOPPED, UNITS_FAILED, Json, OutFolder, err, out, print_json
from raybench.config.plan import Plan, plan_of
from raybench.errors import RunStopped
from raybench.report.console import console_summary


def run(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    out_folder: OutFolder = Path("out"),
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = None,
    as_json: Json = False,
    allow_failed_units: Annotated[
        bool, typer.Option(help="Exit with 0 although units failed: for schedulers that take each failure for a fault.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option(help="Try units again that failed in `resources.attempts` commands.")
    ] = False,
) -> None:
    """Train, score and measure every unit that is not done yet, then compare. Run it again to resume."""
    plan = plan_of(str(experiment))
    code = run_experiment(plan, str(experiment), out_folder, address, as_json, retry_failed)
    sys.exit(OK if code == UNITS_FAILED and allow_failed_units else code)


def run_experiment(
    plan: Plan, name: str, out_folder: Path, address: str | None, as_json: bool, retry_failed: bool = False
) -> int:
    """Run what is left of a plan, print what came of it and what to do next, and return the exit code.

    Args:
        plan: The plan.
        name: What other commands take for this run: its experiment file or its URI.
        out_folder: Local folder for a copy of the report.
        address: Ray cluster.
        as_json: Print the board as JSON on stdout, and all else on stderr.
        retry_failed: Try units again that failed in as many commands as the experiment allows.
    """
    try:
        summary = execute(plan, address, err, retry_failed)
    except RunStopped:
        return STOPPED
    if as_json:
        print_json(board_json(summary.board))
    console = err if as_json else out
    console.print(console_summary(summary, plan.units), soft_wrap=not console.is_terminal)
    print_copy(plan, out_folder, as_json)
    _print_next(summary.board, name, console)
    return UNITS_FAILED if summary.failed or "attempts" in summary.left_out.values() else OK


def _print_next(board: Board, name: str, console: Console) -> None:
    """Print the commands that use the run."""
    run, line = shlex.quote(name), next((verdict.line for verdict in board.verdicts if verdict.run), None)
    commands = {f"raybench report {run}": "the numbers of every model"}
    if line:
        commands[f"raybench predict {run} FOLDER --line {shlex.quote(line)}"] = "score new images"
    if any(queue.picked for queue in board.payoffs):
        commands[f"raybench annotate {run} --to todo --picked"] = "images to annotate, outlined"
    width = max(map(len, commands))
    console.print("next:", highlight=False)
    for command, purpose in commands.items():
        console.print(f"  {command:<{width}}  # {purpose}", soft_wrap=True, highlight=False, markup=False)
