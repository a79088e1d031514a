"""Select units of a line: that of the model which the verdict names or of a given one, and the first finished ones."""

from __future__ import annotations

from collections.abc import Iterable

from raybench.analysis.board import Board, board_from_json
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.errors import InputError, ObjectMissing, UnknownName
from raybench.metrics.image import ImageScores
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore


def select_unit(plan: Plan, line: str, model: str | None) -> Unit:
    """Return the first seed's unit of a model on a line.

    Args:
        plan: The run's plan.
        line: Name of a line.
        model: Label of a model of the experiment; None for the model that the verdict names.

    Raises:
        UnknownName: The experiment has no such line or model.
        InputError: There is no report yet, or its verdict names no model.
    """
    label = model or _named_model(RunStore.of(plan), line)
    if line not in plan.manifests:
        raise UnknownName("line", line, plan.manifests)
    units = [unit for unit in plan.compared if unit.line == line and unit.model == label]
    if not units:
        raise UnknownName("model", label, {unit.model for unit in plan.compared})
    return units[0]


def first_finished(plan: Plan, line: str) -> dict[str, tuple[UnitResult, ImageScores]]:
    """Return the result and image scores of each model's first seed that is finished on a line, by model."""
    return first_results(RunStore.of(plan), (unit for unit in plan.compared if unit.line == line))


def first_results(run: RunStore, units: Iterable[Unit]) -> dict[str, tuple[UnitResult, ImageScores]]:
    """Return the result and image scores of the first of the units of each model that is finished, by model."""
    found: dict[str, tuple[UnitResult, ImageScores]] = {}
    for unit in units:
        if unit.model not in found and (result := run.result(unit)):
            found[unit.model] = result, ImageScores.from_bytes(run.get_blob(result.judged.images))
    return found


def reported_board(run: RunStore) -> Board | None:
    """Return the board of a run's report, None if it has none of this version."""
    try:
        return board_from_json(run.get_report("board.json"))
    except (ObjectMissing, InputError):
        return None


def _named_model(run: RunStore, line: str) -> str:
    try:
        board = board_from_json(run.get_report("board.json"))
    except ObjectMissing as error:
        raise InputError(f"{run.store.uri(run.root)} has no report yet; run the experiment, or name a model") from error
    if line not in board.lines:
        raise UnknownName("line", line, board.lines)
    verdict = board.verdict_on(line)
    if verdict.run is None:
        raise InputError(f"{verdict.sentence} Name one with --model")
    return verdict.run
