"""The report cache: a report is built again only if a commit, the experiment or a version has changed."""

from __future__ import annotations

import hashlib
import json

from raybench.analysis.board import Board, board_from_json
from raybench.config.plan import Plan
from raybench.errors import InputError, ObjectMissing
from raybench.runs.records import Failure
from raybench.runs.run import RunStore, versions
from raybench.store.digest import digest
from raybench.worker.inspect import inspections_in


def save(plan: Plan, run: RunStore, board: Board) -> None:
    """Note what the report just published rests on, unless something failed or is still to be done."""
    failed = any(row.failures for row in board.rows) or any(
        isinstance(found, Failure) for found in inspections_in(run, plan).values()
    )
    if not board.context.pending and not failed:
        sha256 = hashlib.sha256(run.get_report("board.json")).hexdigest()
        run.store.put(_key(run), json.dumps({"basis": _basis(plan), "board": sha256}).encode())


def load(plan: Plan, run: RunStore) -> Board | None:
    """Return the published board, or None if the report has to be built."""
    try:
        note = json.loads(run.store.get(_key(run)))
        data = run.get_report("board.json")
        is_current = note["basis"] == _basis(plan) and note["board"] == hashlib.sha256(data).hexdigest()
        return board_from_json(data) if is_current else None
    except (ObjectMissing, InputError, ValueError, KeyError, TypeError):
        return None


def _basis(plan: Plan) -> str:
    units = [[unit.unit_id, unit.model] for unit in plan.units]
    price, signals = plan.experiment.resources.price_per_hour, plan.experiment.annotation.signals
    return digest(
        [plan.experiment.digest, price, signals, units, dict(plan.squashed), sorted(plan.asides), dict(versions())]
    )


def _key(run: RunStore) -> str:
    return f"{run.root}/ledger/report.json"
