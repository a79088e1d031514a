"""The conditions that a board's numbers were measured under, in a few sentences however many lines there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from raybench.analysis.board import Board
from raybench.analysis.cost_report import format_cost
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.verdict import DecisionSettings
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.numbers import IDLE_LOAD
from raybench.metrics.ranking import SEED_SD

FEW = 8
"""Items of a kind that are listed; more are counted."""
Finished = tuple[BoardRow, FinishedModel]


def conditions(board: Board) -> list[str]:
    """Return the conditions, one sentence each."""
    context, finished = board.context, _finished(board)
    speeds = [model.measured.speed for _, model in finished]
    devices = {f"{speed.device}, {speed.dtype}, {speed.threads} threads" for speed in speeds}
    texts = [
        "intervals: 95 %, over images and seeds; P(best): probability that no other model compared has a higher "
        "utility; expected loss: what the best model has more, on average over what may be true; rank: 95 % of the "
        "ranks that a model may have",
        f"recall and false alarms: at the OK-only threshold with a budget of {_budgets(board)}; promised: what the "
        "held-back OK images can promise on average",
        "defects found: regions of the masks that the heat map touches, above the value that at most that share of OK "
        "images reaches anywhere",
        "ms/image: model only, batch 1, median (95th percentile), alone on the device; test min: the test set one by "
        "one, decoding included; MB: the saved detector (10^6 bytes)",
    ]
    texts += _moved(finished)
    texts.append(_utility(context.decision))
    texts += _one_seed(board)
    texts += [f"device: {text}" for text in sorted(devices)]
    texts += _mixed_devices(finished)
    texts += _cut_short(finished)
    texts += _undertrained(finished)
    texts += _together(finished)
    texts += _disturbed(finished)
    texts += format_cost(context.spending)
    texts += _weights(finished)
    unexportable = {(row.model, why) for row, model in finished if (why := model.trained.not_exportable)}
    texts += sorted(f"{model} cannot be exported: {why}" for model, why in unexportable)
    if context.pending:
        texts.append(f"{context.pending} units are still to be done; `raybench run` goes on with them")
    if mixed := [f"{name} {version}" for name, version in context.versions.items() if " and " in version]:
        texts.append(
            f"units were made by {', '.join(mixed)}, which may not give the same numbers; another `revision` in the "
            "experiment computes all of them anew"
        )
    versions = ", ".join(f"{name} {version}" for name, version in context.versions.items())
    return [*texts, f"{context.created}, experiment {context.digest[:12]}, {versions}"]


def _together(finished: Sequence[Finished]) -> list[str]:
    """Which models are one detector for several lines."""
    together = {row.model: model.trained.together for row, model in finished if model.trained.together}
    return [
        f"{model}: one detector, trained on the OK images of {few(lines)} together; thresholds are each line's own"
        for model, lines in sorted(together.items())
    ]


def _finished(board: Board) -> list[Finished]:
    return [(row, row.finished) for row in board.rows if row.finished]


def _utility(decision: DecisionSettings) -> str:
    """What counts in the verdict."""
    rates, margin = decision.verdict, decision.verdict.margin
    if decision.costs:
        costs = decision.costs
        return (
            "utility: minus expected cost per image, in units of the cost of missing every defect; a missed defect "
            f"costs {costs.missed_defect:g}, a false alarm {costs.false_alarm:g}, a millisecond {costs.ms:g}, and "
            f"{costs.defect_rate:.3g} of images are NG; models within {margin:g} are as good"
        )
    return (
        f"utility: image AUROC + {rates.recall:g} × recall at the false-alarm budget + {rates.heat_map:g} × heat map - "
        f"{rates.ms:g} per ms - {rates.mb:g} per MB; models within {margin:g} are as good"
    )


def _one_seed(board: Board) -> list[str]:
    """Whether trainings were repeated."""
    if any(len(row.seeds) > 1 for row in board.rows) or not any(row.seeds for row in board.rows):
        return []
    return [
        "one seed: intervals hold for these trained detectors; that another training may rank them differently is "
        f"assumed (standard deviation of {SEED_SD:g} at an AUROC of 0.5), `seeds: [0, 1, 2]` measures it"
    ]


def _budgets(board: Board) -> str:
    """The experiment's false-alarm budget, and the budgets of lines that override it."""
    usual = board.context.false_alarm_budget
    by_line = {row.line: model.trained.threshold.budget for row, model in _finished(board)}
    others = Counter(budget for budget in by_line.values() if budget != usual)
    parts = [f"{budget:.3g} on {count} line{'s' if count > 1 else ''}" for budget, count in sorted(others.items())]
    return f"{usual:.0%}" + (f" ({', '.join(parts)})" if parts else "")


def _moved(finished: Sequence[Finished]) -> list[str]:
    """Lines whose thresholds the experiment has moved to where they promise nothing."""
    lines: dict[str, set[str]] = {}
    for row, model in finished:
        if model.trained.threshold.promised >= 1:
            lines.setdefault(model.trained.threshold.note, set()).add(row.line)
    return [f"{few(sorted(names))}: each threshold is {note}" for note, names in sorted(lines.items())]


def _mixed_devices(finished: Sequence[Finished]) -> list[str]:
    """Lines whose units were trained on CPUs and on GPUs, as happens when a run is resumed elsewhere."""
    kinds: dict[str, set[str]] = {}
    for row, model in finished:
        kinds.setdefault(row.line, set()).update(model.trained_on)
    mixed = sorted(line for line, found in kinds.items() if len(found) > 1)
    if not mixed:
        return []
    return [
        f"{few(mixed)}: some units were trained on a CPU and some on a GPU, whose rounding differs; small differences "
        "between them are not the models'"
    ]


def _cut_short(finished: Sequence[Finished]) -> list[str]:
    """Models whose training a time budget ended, with the line on which each got the smallest share of its steps."""
    cut: dict[str, list[tuple[float, BoardRow, TrainSteps]]] = {}
    for row, of_row in finished:
        if of_row.steps and of_row.steps.budget_s is not None:
            cut.setdefault(row.model, []).append((of_row.steps.done / of_row.steps.planned, row, of_row.steps))
    texts = []
    for model, found in sorted(cut.items()):
        _, row, steps = min(found, key=lambda one: one[0])
        others = f" (the least of {len(found)} lines)" if len(found) > 1 else ""
        texts.append(
            f"{model} on {row.line}{others} took {steps.done:,} of {steps.planned:,} steps within its budget of "
            f"{steps.budget_s:g} s; on another machine it would take another number"
        )
    return texts


def _undertrained(finished: Sequence[Finished]) -> list[str]:
    """Models that took fewer optimiser steps than they are known to need, with the smallest number of each."""
    short: dict[str, TrainSteps] = {}
    for row, of_row in finished:
        if of_row.steps and of_row.steps.done < of_row.steps.enough:
            before = short.get(row.model, of_row.steps)
            short[row.model] = min(before, of_row.steps, key=lambda steps: steps.done)
    return [
        f"undertrained: {model} took {steps.done:,} of the {steps.enough:,} steps that it should have; its results are "
        "those of a model that has not learnt what it can"
        for model, steps in sorted(short.items())
    ]


def _disturbed(finished: Sequence[Finished]) -> list[str]:
    """Times that were taken while other programs kept the machine busy."""
    found = [(row, model.measured.speed) for row, model in finished if model.measured.speed.is_disturbed]
    if len(found) > FEW:
        worst, speed = max(found, key=lambda one: one[1].other_load)
        return [
            f"~: {len(found)} of {len(finished)} times were taken while other programs kept {IDLE_LOAD:.0%} of the "
            f"cores or more busy, {speed.other_load:.0%} at worst ({worst.model} on {worst.line}); on CPUs they are "
            "estimates from CPU time; board.csv has each"
        ]
    return [
        f"~: {row.model} on {row.line} was timed while other programs kept {speed.other_load:.0%} of the cores busy"
        + (f": {speed.wall_p50_ms:.1f} ms, from its CPU time {speed.p50_ms:.1f}" if speed.wall_p50_ms else "")
        for row, speed in found
    ]


def _weights(finished: Sequence[Finished]) -> list[str]:
    """The source of each model's weights: once for all models of one source, by line if lines differ."""
    noted: dict[str, dict[str, list[str]]] = {}
    for row, of_row in sorted(finished, key=lambda each: (each[0].model, each[0].line)):
        if note := of_row.trained.weights_note:
            noted.setdefault(row.model, {}).setdefault(note, []).append(row.line)
    alike: dict[str, list[str]] = {}
    for model, lines_of in noted.items():
        if len(lines_of) == 1:
            alike.setdefault(next(iter(lines_of)), []).append(model)
    texts = [f"{', '.join(models)}: {note}" for note, models in alike.items()]
    for model, lines_of in noted.items():
        texts += _by_line(model, lines_of) if len(lines_of) > 1 else []
    return texts


def _by_line(model: str, lines_of: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence per note. lines_of: lines by note."""
    shown = list(lines_of.items())[:FEW]
    texts = [f"{model} on {few(lines)}: {note}" for note, lines in shown]
    more = len(lines_of) - len(shown)
    return [*texts, f"{model}: {more} more of the kind; board.csv has each"] if more else texts


def few(lines: Sequence[str]) -> str:
    """Return the first lines, and how many more there are."""
    more = f" and {len(lines) - FEW} more lines" if len(lines) > FEW else ""
    return ", ".join(lines[:FEW]) + more
