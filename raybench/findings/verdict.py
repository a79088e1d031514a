"""Which model a line should run, how sure that is, and why not the others.

Image AUROC ranks. Two models are tied when the 95 % interval of their difference, resampled over the same images, holds
zero. AU-PRO decides among the tied where there are masks and its intervals part them. Those still tied are told as a
tie. The one named is the best by image AUROC of those that take at most 1.5 times as long as the fastest: a smaller
difference in time does not matter to a line, a larger one may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybench.findings.rows import Row
from raybench.metrics.image import ImageScores, paired_difference
from raybench.results import Number

ABOUT_AS_FAST = 1.5


@dataclass(frozen=True)
class Verdict:
    """run: the model to run, None where nothing can be said. tied: models that are as good as far as one can tell.
    sentence: for a person. conclusions: a few words on each model."""

    line: str
    run: str | None
    tied: tuple[str, ...]
    sentence: str
    conclusions: Mapping[str, str]


def judge(line: str, rows: Sequence[Row], scores: Mapping[str, ImageScores]) -> Verdict:
    """The verdict on one line. scores: by model, of one seed."""
    conclusions = {row.model: _failed(row) for row in rows if row.quality is None}
    ranked = sorted((row for row in rows if _auroc(row) is not None), key=lambda row: -(_auroc(row) or 0.0))
    if not ranked:
        return _nothing(line, rows, conclusions)
    leader = ranked[0]
    gaps = {row.model: paired_difference(scores[leader.model], scores[row.model]) for row in ranked[1:]}
    tied = [leader, *(row for row in ranked[1:] if (gaps[row.model].low or 0.0) <= 0.0)]
    sharp = _sharpest(tied)
    quick = [row for row in sharp if _ms(row) <= ABOUT_AS_FAST * min(map(_ms, sharp))]
    best = max(quick, key=lambda row: _auroc(row) or 0.0)
    for row in ranked:
        conclusions[row.model] = _conclusion(row, best, sharp, tied, gaps.get(row.model)) + _alarms(row)
    others = tuple(row.model for row in sharp if row is not best)
    return Verdict(line, best.model, others, _sentence(line, best, sharp, tied), conclusions)


def _auroc(row: Row) -> float | None:
    return row.quality.image_auroc.value if row.quality else None


def _ms(row: Row) -> float:
    return row.speed.p50_ms if row.speed else float("inf")


def _sharpest(tied: Sequence[Row]) -> list[Row]:
    """Those whose AU-PRO interval reaches the best one's; all where it is not defined."""
    measured = [(row, row.quality.au_pro) for row in tied if row.quality and row.quality.au_pro.value is not None]
    if len(measured) < len(tied):
        return list(tied)
    top = max((number for _, number in measured), key=lambda number: number.value or 0.0)
    return [row for row, number in measured if (number.high or 0.0) >= (top.low or 0.0)]


def _conclusion(row: Row, best: Row, sharp: Sequence[Row], tied: Sequence[Row], gap: Number | None) -> str:
    if row is best:
        return "run this one" if len(sharp) == 1 else "run this one: best guess of the tied"
    if row in sharp:
        return f"tied; {_ms(row) / _ms(best):.1f}× the time of {best.model}" if _ms(best) > 0 else "tied"
    if row in tied:
        return "tied on images; heat map less accurate"
    if gap is None or gap.value is None:
        return "cannot be compared"
    return f"behind by {gap.value:.3f} ({gap.low:.3f}–{gap.high:.3f}) image AUROC"


def _alarms(row: Row) -> str:
    """A warning where OK images of the test split show that the threshold does not keep to its budget."""
    rate = row.quality.false_alarm_rate if row.quality else None
    if rate is None or row.threshold is None or (rate.low or 0.0) <= row.threshold.budget:
        return ""
    return f"; its threshold does not hold here: {rate.value:.0%} false alarms"


def _failed(row: Row) -> str:
    failure = row.failures[-1]
    return f"failed in {failure.phase}: {failure.error_type}"


def _sentence(line: str, best: Row, sharp: Sequence[Row], tied: Sequence[Row]) -> str:
    quality = best.quality
    auroc = f"image AUROC {shown(quality.image_auroc)}" if quality else ""
    speed = f"{_ms(best):.0f} ms an image" if best.speed else ""
    start = f"{line}: run {best.model} ({', '.join(filter(None, (auroc, speed)))})."
    if len(sharp) > 1:
        names = ", ".join(row.model for row in sharp if row is not best)
        slower = all(_ms(row) > ABOUT_AS_FAST * _ms(best) for row in sharp if row is not best)
        why = "by far the fastest of them" if slower else "the best guess among the fast ones"
        return f"{start} It cannot be told apart from {names} on these images; it is {why}."
    if len(tied) > 1:
        names = ", ".join(row.model for row in tied if row is not best)
        return f"{start} On images it is tied with {names}; its heat map is the more accurate."
    return f"{start} It is better than every other model tried."


def _nothing(line: str, rows: Sequence[Row], conclusions: Mapping[str, str]) -> Verdict:
    reasons = {row.model: row.quality.image_auroc.reason or "" for row in rows if row.quality}
    why = next(iter(reasons.values()), "no model finished")
    said = dict.fromkeys(reasons, "quality unknown") | dict(conclusions)
    return Verdict(line, None, (), f"{line}: no verdict, {why}.", said)


def shown(number: Number) -> str:
    """`0.953 (0.931–0.971)`, or a dash."""
    if number.value is None:
        return "–"
    interval = f" ({number.low:.3f}–{number.high:.3f})" if number.low is not None and number.high is not None else ""
    return f"{number.value:.3f}{interval}"
