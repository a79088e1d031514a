"""`raybench run`: train, score, measure and compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raybench._api import execute, print_summary
from raybench.cli.options import OK, STOPPED, UNITS_FAILED, Json, OutFolder
from raybench.cli.report import print_board, print_copy
from raybench.cli.terminal import err, out
from raybench.config.experiment import read_experiment
from raybench.config.plan import Plan, make_plan
from raybench.errors import RunStopped


def run(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    out_folder: OutFolder = Path("out"),
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Train, score and measure every unit that is not done yet, then compare. Run it again to resume."""
    sys.exit(run_experiment(make_plan(read_experiment(experiment), str(experiment)), out_folder, address, as_json))


def run_experiment(plan: Plan, out_folder: Path, address: str | None, as_json: bool) -> int:
    """Run what is left of a plan, print the comparison and what failed, and return the exit code."""
    try:
        summary = execute(plan, address, err)
    except RunStopped:
        return STOPPED
    print_board(summary.board, as_json)
    print_summary(summary, err if as_json else out)
    print_copy(plan, out_folder, as_json)
    return UNITS_FAILED if summary.failed else OK
