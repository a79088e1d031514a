"""`raybench publish`: a run in an experiment tracker."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raybench.cli.terminal import OK, UNITS_FAILED, RunName, err, out
from raybench.config.plan import plan_of


class Tracker(StrEnum):
    """Where runs can be published."""

    MLFLOW = "mlflow"


def publish(
    name: RunName,
    to: Annotated[Tracker, typer.Option("--to", help="The tracker. MLflow is where $MLFLOW_TRACKING_URI says.")],
    onnx: Annotated[
        Path | None,
        typer.Option(help="Folder of exported files; the verdicts' models are exported into it if it lacks them."),
    ] = None,
) -> None:
    """Show a run in an experiment tracker: numbers, scores, report and cards. Again to update it."""
    from raybench.report.mlflow import publish_to_mlflow
    from raybench.worker.context import node_cache

    done = publish_to_mlflow(plan_of(name), onnx, node_cache())
    for line, reason in done.not_exported.items():
        err.print(
            f"no exported file of {line}: {reason}", style="yellow", highlight=False, markup=False, soft_wrap=True
        )
    counts = f"{done.created} new, {done.updated} updated, {done.unchanged} unchanged"
    outdated = f", {done.outdated} of units that the experiment has no more" if done.outdated else ""
    out.print(f"{to}: experiment {done.experiment}, run {done.run_id}", highlight=False, markup=False, soft_wrap=True)
    out.print(f"runs of units: {counts}{outdated}", highlight=False)
    sys.exit(UNITS_FAILED if done.not_exported else OK)
