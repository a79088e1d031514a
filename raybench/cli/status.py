"""`raybench status`: how far a run is."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from raybench.cli.terminal import Json, Lines, RunName, matching, out, print_json
from raybench.config.plan import plan_of
from raybench.runs.ledger import read_statuses


def status(name: RunName, lines: Lines = None, as_json: Json = False) -> None:
    """Show which units are done, under way, failed and waiting."""
    plan = plan_of(name)
    shown = set(matching([*plan.manifests], lines) or plan.manifests)
    units = read_statuses(plan, [unit for unit in plan.units if unit.line in shown])
    done = sum(unit.state == "done" for unit in units)
    if as_json:
        print_json({"run": plan.experiment.name, "done": done, "units": list(map(asdict, units))})
        return
    table = Table("line", "model", "seed", "state", "unit", box=None, header_style="bold")
    for unit in units:
        table.add_row(unit.line, unit.model, str(unit.seed), unit.text, unit.unit_id)
    out.print(table)
    out.print(f"{done} of {len(units)} units done", highlight=False)
