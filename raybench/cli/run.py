"""`raybench run`: train, score, measure and compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.options import OK, STOPPED, UNITS_FAILED, Json, OutFolder
from raybench.cli.report import print_board, print_copy
from raybench.cli.terminal import err, out
from raybench.config.experiment import read_experiment
from raybench.config.plan import Plan, make_plan
from raybench.errors import RunStopped
from raybench.report import cache
from raybench.runs.run import Run


def run(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    out_folder: OutFolder = Path("out"),
    address: Annotated[str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, else this machine.")] = None,
    as_json: Json = False,
) -> None:
    """Train, score and measure every unit that is not done yet, then compare. Run it again to resume."""
    sys.exit(_run(make_plan(read_experiment(experiment), str(experiment)), out_folder, address, as_json))


def _run(plan: Plan, out_folder: Path, address: str | None, as_json: bool) -> int:
    from raybench.scheduler.cluster import cluster_capacity, connected
    from raybench.scheduler.progress import shown
    from raybench.scheduler.runner import run_plan

    told = err if as_json else out
    if standing := cache.load(plan, Run(plan.store, plan.experiment.name)):  # no cluster is needed for that
        print_board(standing, as_json)
        told.print(f"{len(plan.units)} units: 0 done now, {len(plan.units)} done before, 0 failed", highlight=False)
        print_copy(plan, out_folder, as_json)
        return OK
    with connected(address), shown(err) as watch:
        if plan.experiment.preset == "paper" and cluster_capacity(plan.experiment.resources).device == "cpu":
            err.print("there is no GPU: the papers' settings may take hours per model; `preset: cpu` takes minutes")
        try:
            summary = run_plan(plan, watch)
        except RunStopped as stopped:  # told at once: `ray job stop` kills what is not gone after three seconds
            err.print(str(stopped), style="yellow", markup=False, highlight=False, soft_wrap=True)
            return STOPPED
    print_board(summary.board, as_json)
    for unit_id, failure in summary.failed.items():
        told.print(
            f"failed {unit_id} in {failure.phase}, attempt {failure.attempt}: {failure.error_type}: {failure.message}",
            style="red",
            markup=False,
        )
    for line, failure in summary.uninspected.items():
        said = f"the data of {line} were not inspected: {failure.error_type}: {failure.message}"
        told.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    done_now = summary.units - summary.reused - len(summary.failed)
    told.print(
        f"{summary.units} units: {done_now} done now, {summary.reused} done before, {len(summary.failed)} failed",
        highlight=False,
    )
    print_copy(plan, out_folder, as_json)
    return UNITS_FAILED if summary.failed else OK
