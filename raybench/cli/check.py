"""`raybench check`: what an experiment would do, and what that would take."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from raybench.analysis.cost_report import format_estimate
from raybench.cli.terminal import Json, out, print_json
from raybench.config.plan import plan_of, planned_units
from raybench.runs.plans import changes_since
from raybench.runs.run import RunStore
from raybench.scheduler.capacity import assumed_nodes
from raybench.scheduler.estimate import estimate_plan


def check(
    experiment: Annotated[Path, typer.Argument(help="Experiment file (YAML).")],
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the cluster to predict for.")] = 1,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of each; default: this machine's.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of each; default: 1 if resources.gpus > 0.")] = None,
    as_json: Json = False,
) -> None:
    """Validate an experiment, print its plan and predict what it will take; touch nothing."""
    plan = plan_of(str(experiment))
    units, changes = planned_units(plan), changes_since(RunStore.of(plan), plan)
    if as_json:
        found = {"run": plan.experiment.name, "digest": plan.experiment.digest, "changes": changes}
        print_json(found | {"units": list(map(asdict, units))})
        return
    table = Table("line", "model", "seed", "input", "train OK", "scored", box=None, header_style="bold")
    for unit in units:
        size = f"{unit.input.height}×{unit.input.width} {unit.input.mode}"
        table.add_row(unit.line, unit.model, str(unit.seed), size, str(unit.train_ok), str(unit.scored))
    out.print(table)
    together = {(unit.model, unit.train_ok): unit.together for unit in units if unit.together}
    for (model, images), lines in together.items():
        text = (
            f"{model}: one detector for {', '.join(lines)}, trained on their {images} OK images less what is held back"
        )
        out.print(text, highlight=False, markup=False, soft_wrap=True)
    out.print(f"{len(units)} units; digest {plan.experiment.digest[:12]}", highlight=False)
    for text in changes:
        out.print(f"since the run last began: {text}", highlight=False, markup=False, soft_wrap=True)
    resources = plan.experiment.resources
    for text in format_estimate(
        estimate_plan(plan, assumed_nodes(resources, nodes, cpus, gpus)), resources.price_per_hour
    ):
        out.print(text, highlight=False)
