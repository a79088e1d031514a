"""The trained unit that speaks for a line: of the model that the verdict names, or that a person does."""

from __future__ import annotations

from raybench.analysis.board import board_from_json
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.errors import InputError, ObjectMissing, UnknownName
from raybench.runs.run import Run


def select_unit(plan: Plan, line: str, model: str | None) -> Unit:
    """The unit of the first seed. model: a label of the experiment; None: the one the verdict names.

    Raises UnknownName, and InputError when there is no verdict yet or it names none.
    """
    wanted = model or _winner(Run(plan.store, plan.experiment.name), line)
    if line not in plan.manifests:
        raise UnknownName("line", line, plan.manifests)
    found = [unit for unit in plan.compared if unit.line == line and unit.model == wanted]
    if not found:
        raise UnknownName("model", wanted, {unit.model for unit in plan.compared})
    return found[0]


def _winner(run: Run, line: str) -> str:
    try:
        board = board_from_json(run.get_report("board.json"))
    except ObjectMissing as error:
        raise InputError(f"{run.store.uri(run.root)} has no report yet; run the experiment, or name a model") from error
    if line not in board.lines:
        raise UnknownName("line", line, board.lines)
    chosen = board.verdict_on(line).run
    if chosen is None:
        raise InputError(f"{board.verdict_on(line).sentence} Name one with --model")
    return chosen
