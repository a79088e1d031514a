"""The marks of the page's charts: dots with intervals, spans of ranks, bars. `assets/marks.html.j2` draws them.

Positions are per cent of a mark's width, which the style sheet sets, so that a mark fits a wide table and a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raybench.analysis.heatmap_grade import WORDS, HeatmapGrade
from raybench.metrics.numbers import Estimate
from raybench.report.column import DASH


@dataclass(frozen=True)
class Axis:
    """The scale of a column of marks, the same in all rows."""

    low: float
    high: float
    ticks: tuple[float, ...] = ()
    is_log: bool = False
    reference: float | None = None
    """Value of the dashed line, such as a limit. None for none."""

    def at(self, value: float) -> float:
        """Return the position of a value in per cent; values beyond an end lie at the end."""
        low, high, inside = (self._scaled(each) for each in (self.low, self.high, value))
        share = (inside - low) / (high - low)
        return round(100 * min(max(share, 0.0), 1.0), 1)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.is_log else value

    @property
    def labels(self) -> tuple[tuple[float, str], ...]:
        """Position and text of each tick."""
        return tuple((self.at(tick), f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}") for tick in self.ticks)

    @property
    def dashed(self) -> float | None:
        """Position of the dashed line."""
        return None if self.reference is None else self.at(self.reference)


AUROC, SHARE, ALARMS = Axis(0.5, 1, (0.5, 0.8, 1)), Axis(0, 1, (0, 0.5, 1)), Axis(0, 0.3, (0, 0.1, 0.3))


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    text: str
    """The value, or a dash."""
    title: str
    """Everything that the mark shows, in words."""
    value: float | None
    """The number that rows are sorted by. None if undefined."""
    at: float | None = None
    """Position of the dot. None if undefined."""
    start: float | None = None
    """Position of the lower end of the interval. None without an interval."""
    end: float | None = None
    """Position of the upper end of the interval."""
    below: bool = False
    """Whether value or interval go on below the axis."""
    above: bool = False
    """Whether value or interval go on above the axis."""
    is_strong: bool = True
    """Whether the dot is filled: it belongs to a model that may be the best."""
    dashed: float | None = None
    """Position of the dashed line."""
    is_efficient: bool = False
    """Whether no other model is better in both quality and this cost."""


def dot(name: str, number: Estimate | float | None, axis: Axis, form: str = ".3f", *, strong: bool = True) -> Dot:
    """Return a value as a dot.

    Args:
        name: What the number is, for people who cannot see the dot.
        number: The number; a float has no interval.
        axis: Scale of the column.
        form: Format of the value.
        strong: Whether the dot is filled.
    """
    if not isinstance(number, Estimate):
        number = Estimate(number)
    if number.value is None:
        return Dot(DASH, f"{name}: {number.reason or 'unknown'}", None, is_strong=strong, dashed=axis.dashed)
    ends = [number.value] if number.low is None or number.high is None else [number.low, number.value, number.high]
    interval = f", 95 % interval {ends[0]:{form}} to {ends[-1]:{form}}" if len(ends) > 1 else ""
    return Dot(
        text=f"{number.value:{form}}",
        title=f"{name} {number.value:{form}}{interval}{f', n = {number.n}' if number.n else ''}",
        value=number.value,
        at=axis.at(number.value),
        start=axis.at(ends[0]) if len(ends) > 1 else None,
        end=axis.at(ends[-1]) if len(ends) > 1 else None,
        below=ends[0] < axis.low,
        above=ends[-1] > axis.high,
        is_strong=strong,
        dashed=axis.dashed,
    )


@dataclass(frozen=True)
class Span:
    """The range of ranks that a model may have."""

    text: str
    title: str
    value: int
    """Rank by expected loss, which rows are sorted by."""
    at: float
    start: float
    end: float
    is_strong: bool


def span(places: tuple[int, int], place: int, axis: Axis, *, strong: bool = True) -> Span:
    """Return a range of ranks as a bar, with a dot at the rank by expected loss.

    Args:
        places: Best and worst rank.
        place: Rank by expected loss.
        axis: From 1 to the number of models.
        strong: Whether the dot is filled.
    """
    best, worst = places
    text = str(best) if best == worst else f"{best}–{worst}"
    title = f"rank {text} of {axis.high:g}; {place} by expected loss"
    return Span(text, title, place, axis.at(min(max(place, best), worst)), axis.at(best), axis.at(worst), strong)


@dataclass(frozen=True)
class Term:
    """A summand of the utility: the named model's beside another's."""

    name: str
    mine: float
    theirs: float
    start: float
    """Start of the bar from 0 to the difference, in per cent."""
    width: float
    """Per cent."""

    @property
    def difference(self) -> float:
        return self.mine - self.theirs


def terms(mine: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[Term, ...]:
    """Return the summands of two models with bars of their differences, the middle of the scale being 0."""
    names = [name for name in dict.fromkeys((*mine, *theirs)) if mine.get(name) or theirs.get(name)]
    differences = {name: mine.get(name, 0.0) - theirs.get(name, 0.0) for name in names}
    widest = max((abs(value) for value in differences.values()), default=0.0) or 1.0
    return tuple(
        Term(
            name,
            mine.get(name, 0.0),
            theirs.get(name, 0.0),
            round(50 + min(value / widest, 0) * 50, 1),
            round(abs(value) / widest * 50, 1),
        )
        for name, value in differences.items()
    )


def ranks(models: int) -> Axis:
    """Return the axis of ranks among so many models."""
    return Axis(1, max(models, 2), (1, max(models, 2)))


def decades(values: Iterable[float | None]) -> Axis:
    """Return a logarithmic axis of whole decades around the values, with a tick at each end."""
    known = [value for value in values if value is not None and value > 0]
    low = math.floor(math.log10(min(known, default=1)))
    high = max(math.ceil(math.log10(max(known, default=10))), low + 1)
    ends = (10.0**low, 10.0**high)
    return Axis(*ends, ends, is_log=True)


def efficient(costs: Sequence[float | None], qualities: Sequence[float | None]) -> list[bool]:
    """Return which items no other beats: at most as expensive, at least as good, and better in one of them."""
    pairs = list(zip(costs, qualities, strict=True))
    known = [(cost, quality) for cost, quality in pairs if cost is not None and quality is not None]
    return [
        cost is not None
        and quality is not None
        and not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in known)
        for cost, quality in pairs
    ]


@dataclass(frozen=True)
class Blocks:
    """A grade of heat maps as one to four blocks."""

    text: str
    title: str
    filled: int


def blocks(grade: HeatmapGrade | None) -> Blocks:
    """Return the mark of a heat-map grade, unknown ones included."""
    if grade is None:
        return Blocks(DASH, "no heat maps, or no images to compare them on", 0)
    why = grade.why or "AU-PRO, noise around defects and noise on OK images are all good"
    return Blocks(str(grade), f"{grade}: {why}", len(WORDS) - WORDS.index(grade.word))
