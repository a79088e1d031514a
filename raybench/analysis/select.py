"""Select the trained unit of a line: of the model that the verdict names, or of a given one."""

from __future__ import annotations

from raybench.analysis.board import board_from_json
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.errors import InputError, ObjectMissing, UnknownName
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
