"""A report that need not be built again: nothing has been committed since, and nothing else about it differs."""

from __future__ import annotations

import hashlib
import json

from pydantic import ValidationError

from raybench.analysis.board import Board, board_from_json
from raybench.config.plan import Plan
from raybench.errors import ObjectMissing
from raybench.runs.records import Failure
from raybench.runs.run import RunStore, versions
from raybench.store.digest import digest
from raybench.worker.inspect import inspections_in


def save(plan: Plan, run: RunStore, board: Board) -> None:
    """Write down what the report of `board`, just published, rests on. Not where anything failed or is to be done."""
    failed = any(row.failures for row in board.rows) or any(
        isinstance(found, Failure) for found in inspections_in(run, plan).values()
    )
    if not board.context.pending and not failed:
        sha256 = hashlib.sha256(run.get_report("board.json")).hexdigest()
        run.store.put(_key(run), json.dumps({"basis": _basis(plan), "board": sha256}).encode())


def load(plan: Plan, run: RunStore) -> Board | None:
    """The board that stands, where every unit was done when it was published; None where it has to be built."""
    try:
        noted = json.loads(run.store.get(_key(run)))
        data = run.get_report("board.json")
        same = noted["basis"] == _basis(plan) and noted["board"] == hashlib.sha256(data).hexdigest()
        return board_from_json(data) if same else None
    except (ObjectMissing, ValueError, KeyError, TypeError, ValidationError):
        return None


def _basis(plan: Plan) -> str:
    units = [[unit.unit_id, unit.model] for unit in plan.units]
    price, signals = plan.experiment.resources.price_per_hour, plan.experiment.annotation.signals
    return digest(
        [plan.experiment.digest, price, signals, units, dict(plan.squashed), sorted(plan.asides), dict(versions())]
    )


def _key(run: RunStore) -> str:
    return f"{run.root}/ledger/report.json"
