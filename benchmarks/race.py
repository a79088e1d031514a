"""What a race saves: a finished run with several seeds, decided as if further seeds of some models had been left out.

python -m benchmarks.race night.yaml [--risk 0.01 0.05]
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from raybench.analysis.board import Board
from raybench.analysis.findings import analyze
from raybench.config.plan import Plan, plan_of
from raybench.config.unit import Unit
from raybench.runs.run import RunStore
from raybench.scheduler.admission import Race

HEADER = (
    "| risk | units left out | training left out | lines with the same model named | lost in image AUROC, at most |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="an experiment file, or STORE/runs/NAME; all its units are done")
    parser.add_argument("--risk", type=float, nargs="+", default=[0.01, 0.05])
    asked = parser.parse_args()
    plan = plan_of(asked.run)
    run = RunStore.of(plan)
    full = analyze(plan, run, "").board
    print(HEADER + "\n|---|---|---|---|---|")
    for risk in asked.risk:
        gone = left_out(plan, run, risk)
        kept = [unit for unit in plan.units if unit.unit_id not in gone]
        board = analyze(replace(plan, units=tuple(kept)), run, "").board
        trained_s = {unit.unit_id: _train_s(run, unit) for unit in plan.units}
        saved = 1 - sum(trained_s[unit.unit_id] for unit in kept) / sum(trained_s.values())
        names = [(each.line, each.run, board.verdict_on(each.line).run) for each in full.verdicts]
        same = sum(before == after for _, before, after in names)
        lost = max((_auroc(full, line, before) - _auroc(full, line, after) for line, before, after in names), default=0)
        units = f"{len(plan.units) - len(kept)} of {len(plan.units)}"
        print(f"| {risk:g} | {units} | {saved:.0%} | {same} of {len(names)} | {max(0.0, lost):.3f} |")


def left_out(plan: Plan, run: RunStore, risk: float) -> set[str]:
    """Return the IDs of the units that a race would have left out."""
    gone = set[str]()
    for line in plan.manifests:
        units = [unit for unit in plan.units if unit.line == line]
        for number, seed in enumerate(sorted({unit.seed for unit in units})):
            if number:
                kept = tuple(unit for unit in plan.units if unit.unit_id not in gone)
                chances = Race(replace(plan, units=kept), run, risk, ()).chances(line, number)
                gone |= {unit.unit_id for unit in units if unit.seed >= seed and chances.get(unit.model, 1.0) < risk}
    return gone


def _train_s(run: RunStore, unit: Unit) -> float:
    result = run.result(unit)
    if result is None:
        raise SystemExit(f"{unit} is not done")
    return result.trained.spent.seconds


def _auroc(board: Board, line: str, model: str | None) -> float:
    (row,) = (row for row in board.rows_of(line) if row.model == model)
    return (row.finished.quality.image_auroc.value or 0.0) if row.finished else 0.0


if __name__ == "__main__":
    main()
