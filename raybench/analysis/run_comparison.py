"""Compare a run with an earlier one: what changed in each line's verdict, and how sure it is that it got worse.

Both runs must have judged the same images: pairs are images with the same id, the same bytes and the same label. Whole
groups of images are resampled together for both runs. A line got *worse* if recall or image AUROC of the model that its
verdict names fell, or its false alarms rose, for sure: the whole 95 % interval of the difference lies on that side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from raybench.analysis.board import Board
from raybench.analysis.findings import Findings, FinishedUnit
from raybench.analysis.verdict import Verdict
from raybench.config.experiment import Experiment
from raybench.errors import InputError
from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import group_numbers, share_change
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import paired_difference

if TYPE_CHECKING:
    import pandas as pd

Word = Literal["worse", "better", "better and worse", "cannot tell", "unchanged", "not comparable"]
WORDS: tuple[Word, ...] = ("worse", "better and worse", "not comparable", "cannot tell", "better", "unchanged")
"""In the order of the report: what needs a person first."""
CONDITIONS = ("recall drops", "image AUROC drops", "false alarms rise", "verdict changes")
"""What a pipeline can be stopped by."""
_REGION = "its region of interest is another one: detectors see other parts of the same images"
_COMPARED_KEYS = (
    "seeds", "preset", "false_alarm_budget", "held_out", "train_budget_s", "input", "threshold", "verdict", "costs",
    "limits", "overrides", "together",
)  # fmt: skip


@dataclass(frozen=True)
class ImageChange:
    """The labelled test images of a line, then and now."""

    ok: int
    """OK images that both runs judged."""
    ng: int
    """NG images that both runs judged."""
    added: int
    removed: int
    relabelled: int
    """Images whose label differs. They are not compared."""
    rewritten: int
    """Images of the same id with other bytes. They are not compared."""

    @property
    def is_same(self) -> bool:
        """Whether both runs judged the same images under the same labels."""
        return not (self.added or self.removed or self.relabelled or self.rewritten)


@dataclass(frozen=True)
class ModelChange:
    """A model of the earlier run and one of the later run on the same images."""

    old: str
    new: str
    image_auroc: Estimate
    """Later minus earlier."""
    recall: Estimate
    """Later minus earlier, each at its own threshold."""
    false_alarms: Estimate
    """Later minus earlier, each at its own threshold."""
    newly_missed: tuple[str, ...] = ()
    """NG images that only the earlier model flags. With several seeds an image is flagged if more than half flag it."""
    newly_caught: tuple[str, ...] = ()
    """NG images that only the later model flags."""
    new_alarms: tuple[str, ...] = ()
    """OK images that only the later model flags."""
    gone_alarms: tuple[str, ...] = ()
    """OK images that only the earlier model flags."""

    @property
    def word(self) -> Word:
        """What changed for sure."""
        changes = (self.image_auroc, self.recall, negative(self.false_alarms))
        if all(change.value is None for change in changes):
            return "not comparable"
        worse, better = any(map(_falls, changes)), any(map(_rises, changes))
        if worse or better:
            return "better and worse" if worse and better else "worse" if worse else "better"
        is_same = all(change.value in (None, 0.0) for change in changes)
        flips = (self.newly_missed, self.newly_caught, self.new_alarms, self.gone_alarms)
        return "unchanged" if is_same and not any(flips) else "cannot tell"


@dataclass(frozen=True)
class LineChange:
    """A line, then and now."""

    line: str
    word: Word
    old: Verdict | None
    new: Verdict | None
    named: ModelChange | None
    """The model that the earlier verdict names against the one that the later verdict names."""
    models: tuple[ModelChange, ...]
    """Each model that both runs have, against itself."""
    images: ImageChange | None
    notes: tuple[str, ...]
    """Why the line cannot be compared, or only in part."""

    @property
    def verdict_changed(self) -> bool:
        """Whether another model is named, or the named one has another grade."""
        return _named(self.old) != _named(self.new)


@dataclass(frozen=True)
class RunComparison:
    """A run against an earlier one."""

    old: str
    new: str
    differences: tuple[str, ...]
    """What else differs between the runs, in words."""
    lines: tuple[LineChange, ...]
    """What needs a person first."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row per line: the verdicts, the changes of the named model with their intervals, and flips."""
        import pandas as pd  # takes half a second

        rows = []
        for each in self.lines:
            change = each.named or _undefined("", "", "no model is named")
            row: dict[str, object] = {"line": each.line, "change": each.word}
            row |= {"run_then": each.old.run if each.old else None, "run_now": each.new.run if each.new else None}
            for name in ("image_auroc", "recall", "false_alarms"):
                number: Estimate = getattr(change, name)
                row |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
            for name in ("newly_missed", "newly_caught", "new_alarms", "gone_alarms"):
                row[name] = len(getattr(change, name))
            rows.append(row | {"notes": "; ".join(each.notes)})
        return pd.DataFrame(rows).set_index("line") if rows else pd.DataFrame()

    def check(self, condition: str) -> dict[str, str | None]:
        """Return what a condition says of each line that it can be asked of.

        Args:
            condition: One of CONDITIONS.

        Returns:
            By line: a sentence if the condition holds for sure, else an empty text; None if it cannot be told.

        Raises:
            InputError: There is no such condition.
        """
        if condition not in CONDITIONS:
            raise InputError(f"there is no condition {condition!r}; known: {', '.join(map(repr, CONDITIONS))}")
        return {each.line: _check(each, condition) for each in self.lines}


def compare_runs(
    old: Findings,
    new: Findings,
    experiments: tuple[Experiment, Experiment],
    rewritten: Mapping[str, Set[str]],
    other_regions: Set[str] = frozenset(),
) -> RunComparison:
    """Compare a run with an earlier one.

    Args:
        old: The earlier run.
        new: The later run.
        experiments: Of both runs.
        rewritten: By line, ids of images that both runs have with different bytes.
        other_regions: Lines whose regions of interest have changed.
    """
    names = sorted({*old.board.lines, *new.board.lines})
    lines = [_line(name, old, new, experiments, rewritten.get(name, frozenset())) for name in names]
    lines = [replace(each, notes=(*each.notes, _REGION)) if each.line in other_regions else each for each in lines]
    lines.sort(key=lambda each: (WORDS.index(each.word), _recall_of(each), each.line))
    return RunComparison(
        old.board.context.run, new.board.context.run, tuple(_differences(old, new, experiments)), tuple(lines)
    )


def negative(number: Estimate) -> Estimate:
    """Return the estimate of minus a number."""
    low, high = (None if end is None else -end for end in (number.high, number.low))
    return Estimate(None if number.value is None else -number.value, low, high, number.n, number.reason)


def _line(
    name: str,
    old: Findings,
    new: Findings,
    experiments: tuple[Experiment, Experiment],
    rewritten: Set[str],
) -> LineChange:
    before, now = _units(old, name), _units(new, name)
    then, later = (board.verdict_on(name) if name in board.lines else None for board in (old.board, new.board))
    for run, verdict, units in ((old.board.context.run, then, before), (new.board.context.run, later, now)):
        if verdict is None or not units:
            missing = "no results" if verdict is None else "no finished unit"
            return LineChange(
                name,
                "not comparable",
                then,
                later,
                None,
                (),
                None,
                (f"{run} has {missing} on this line as it is packed now",),
            )
    images, ids = _common(next(iter(before.values()))[0].images, next(iter(now.values()))[0].images, rewritten)
    notes = _image_notes(images)
    if of_threshold := _threshold_difference(name, experiments):
        notes.append(of_threshold)
    models = tuple(_model(model, model, before, now, ids, of_threshold) for model in now if model in before)
    named = None
    if then and later and then.run in before and later.run in now:
        named = _model(str(then.run), str(later.run), before, now, ids, of_threshold)
    else:
        notes.append("one of the verdicts names no model")
    word: Word = named.word if named else "not comparable"
    return LineChange(name, word, then, later, named, models, images, tuple(notes))


def _units(findings: Findings, line: str) -> dict[str, list[FinishedUnit]]:
    """Finished units of a line by model, by seed. Models of the squash baseline are left out."""
    compared = {row.model for row in findings.board.rows_of(line)} if line in findings.board.lines else set()
    by_model: dict[str, list[FinishedUnit]] = {}
    for unit in sorted(findings.finished, key=lambda each: each.unit.seed):
        if unit.unit.line == line and unit.unit.model in compared and unit.unit.unit_id not in findings.asides:
            by_model.setdefault(unit.unit.model, []).append(unit)
    return by_model


def _common(old: ImageScores, new: ImageScores, rewritten: Set[str]) -> tuple[ImageChange, npt.NDArray[np.str_]]:
    """Return how the counted images differ, and the ids of those that can be paired."""
    before, now = (_labels(images) for images in (old, new))
    both = sorted(before.keys() & now.keys())
    relabelled = {each for each in both if before[each] != now[each]}
    paired = [each for each in both if each not in relabelled and each not in rewritten]
    labels = [now[each] for each in paired]
    change = ImageChange(
        labels.count("ok"),
        labels.count("ng"),
        len(now.keys() - before.keys()),
        len(before.keys() - now.keys()),
        len(relabelled),
        len(rewritten & set(both)),
    )
    return change, np.array(paired, np.str_)


def _labels(images: ImageScores) -> dict[str, str]:
    return {image_id: label for label in ("ok", "ng") for image_id in images.image_ids[images.counted(label)].tolist()}


def _image_notes(images: ImageChange) -> list[str]:
    if images.is_same:
        return []
    parts = [
        f"{count} {words}"
        for count, words in (
            (images.added, "added"),
            (images.removed, "removed"),
            (images.relabelled, "with another label"),
            (images.rewritten, "with other bytes"),
        )
        if count
    ]
    return [f"test images: {', '.join(parts)}; compared on the {images.ok} OK and {images.ng} NG images in common"]


def _threshold_difference(line: str, experiments: tuple[Experiment, Experiment]) -> str:
    """Say why recall and false alarms of both runs are not those of one kind of threshold. Empty if they are."""
    before, now = (experiment.on(line).false_alarm_budget for experiment in experiments)
    if before != now:
        return f"false-alarm budget {before:g} then, {now:g} now: recall and false alarms are not compared"
    old, new = (experiment.on(line).threshold for experiment in experiments)
    if old != new:
        return f"thresholds {old} then, {new} now: recall and false alarms are not compared"
    return ""


def _model(
    old: str,
    new: str,
    before: Mapping[str, Sequence[FinishedUnit]],
    now: Mapping[str, Sequence[FinishedUnit]],
    ids: npt.NDArray[np.str_],
    of_threshold: str,
) -> ModelChange:
    sides = before[old], now[new]
    if not all(np.isin(ids, unit.images.image_ids).all() for side in sides for unit in side):
        return _undefined(old, new, "not all images are scored")
    scores = [[unit.images.only(ids) for unit in side] for side in sides]
    counts = [int((scores[0][0].labels == label).sum()) for label in ("ng", "ok")]
    if all(counts) and _decides_alike(sides, scores):
        of_ng, of_ok = (Estimate(0.0, 0.0, 0.0, count) for count in counts)
        return ModelChange(old, new, Estimate(0.0, 0.0, 0.0, len(ids)), of_ng, of_ok)
    auroc = paired_difference(scores[1], scores[0])
    if any(unit.result.trained.threshold.value is None for side in sides for unit in side):
        of_threshold = of_threshold or "a model has no threshold"
    if of_threshold:
        unknown = Estimate(None, reason=of_threshold)
        return ModelChange(old, new, auroc, unknown, unknown)
    flagged = [np.mean([_flags(unit, ids) for unit in side], axis=0) for side in sides]
    labels, groups = scores[1][0].labels, scores[1][0].groups
    changes, flips = {}, {}
    for label in ("ng", "ok"):
        is_label = labels == label
        then, later = (shares[is_label] for shares in flagged)
        changes[label] = share_change(later - then, group_numbers(groups[is_label]), label.upper())
        of_label = ids[is_label]
        flips[label] = (
            tuple(of_label[(then > 0.5) & (later <= 0.5)].tolist()),
            tuple(of_label[(then <= 0.5) & (later > 0.5)].tolist()),
        )
    (missed, caught), (gone, alarms) = flips["ng"], flips["ok"]
    return ModelChange(old, new, auroc, changes["ng"], changes["ok"], missed, caught, alarms, gone)


def _decides_alike(sides: Sequence[Sequence[FinishedUnit]], scores: Sequence[Sequence[ImageScores]]) -> bool:
    """Whether the seeds of both sides have the same scores and thresholds: they are the same detectors."""
    limits = [[unit.result.trained.threshold.value for unit in side] for side in sides]
    return limits[0] == limits[1] and all(
        np.array_equal(then.scores, now.scores) for then, now in zip(*scores, strict=True)
    )


def _flags(unit: FinishedUnit, ids: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    limit = unit.result.trained.threshold.value
    return unit.images.only(ids).scores > (np.inf if limit is None else limit)


def _undefined(old: str, new: str, reason: str) -> ModelChange:
    unknown = Estimate(None, reason=reason)
    return ModelChange(old, new, unknown, unknown, unknown)


def _falls(number: Estimate) -> bool:
    return number.high is not None and number.high < 0


def _rises(number: Estimate) -> bool:
    return number.low is not None and number.low > 0


def _recall_of(line: LineChange) -> float:
    return line.named.recall.value or 0.0 if line.named else 0.0


def _named(verdict: Verdict | None) -> tuple[str | None, str]:
    return (None, "") if verdict is None else (verdict.run, verdict.grades.get(verdict.run or "", ""))


def _check(line: LineChange, condition: str) -> str | None:
    if condition == "verdict changes":
        if line.old is None or line.new is None:
            return None
        (old, before), (new, now) = _named(line.old), _named(line.new)
        return f"{old or 'no model'} ({before}) then, {new or 'no model'} ({now}) now" if line.verdict_changed else ""
    if line.named is None:
        return None
    number = {
        "recall drops": negative(line.named.recall),
        "image AUROC drops": negative(line.named.image_auroc),
        "false alarms rise": line.named.false_alarms,
    }[condition]
    if number.value is None:
        return None
    if not _rises(number):
        return ""
    shown = number if condition == "false alarms rise" else negative(number)
    return f"{condition.rpartition(' ')[0]} {format_change(shown)} on the same {number.n} images"


def format_change(number: Estimate) -> str:
    """`-0.125 (-0.250 to -0.031)`, or a dash."""
    if number.value is None:
        return "–"
    interval = "" if number.low is None or number.high is None else f" ({number.low:+.3f} to {number.high:+.3f})"
    return f"{number.value:+.3f}{interval}"


def _differences(old: Findings, new: Findings, experiments: tuple[Experiment, Experiment]) -> Iterable[str]:
    """Say what differs beside the images, so that nobody takes it for the models'."""
    before, now = (experiment.model_dump(mode="json") for experiment in experiments)
    for key in _COMPARED_KEYS:
        if before[key] != now[key]:
            yield f"{key}: {before[key]} → {now[key]}"
    for words, first, second in (
        ("only in the earlier run", old.board, new.board),
        ("only in the later run", new.board, old.board),
    ):
        models = sorted({row.model for row in first.rows} - {row.model for row in second.rows})
        if models:
            yield f"models {words}: {', '.join(models)}"
    for model, change in _settings(old, new).items():
        yield f"{model}: {change}"
    versions = (old.board.context.versions, new.board.context.versions)
    for package in sorted({*versions[0], *versions[1]}):
        installed = [of_run.get(package, "none") for of_run in versions]
        if installed[0] != installed[1]:
            yield f"{package} {installed[0]} → {installed[1]}"
    devices = [_devices(each.board) or "nothing" for each in (old, new)]
    if devices[0] != devices[1]:
        yield f"measured on {devices[0]} → {devices[1]}: times are not comparable"
    for each in (old, new):
        if each.board.context.pending:
            yield f"{each.board.context.run}: {each.board.context.pending} units are not done"


def _settings(old: Findings, new: Findings) -> dict[str, str]:
    """By model: the settings that differ on some line."""
    units = [
        {(each.unit.line, each.unit.model): each.unit for each in run.finished if each.unit.unit_id not in run.asides}
        for run in (old, new)
    ]
    found: dict[str, str] = {}
    for key in sorted(units[0].keys() & units[1].keys()):
        before, now = units[0][key], units[1][key]
        parts = [
            f"{name} {before.config.get(name)} → {now.config.get(name)}"
            for name in sorted({*before.config, *now.config})
            if before.config.get(name) != now.config.get(name)
        ]
        if before.detector != now.detector:
            parts.append(f"detector {before.detector} → {now.detector}")
        if before.weights != now.weights:
            parts.append("other weights")
        if parts:
            found.setdefault(key[1], ", ".join(parts))
    return found


def _devices(board: Board) -> str:
    return ", ".join(sorted({row.finished.measured.speed.device for row in board.rows if row.finished}))
