"""Which images a person should look at, and why.

Scores of different models have different scales. They are compared in each model's own unit, the *excess*: how far an
image lies above the threshold, divided by how far the threshold lies above a typical OK image.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import excess_of
from raybench.results import UnitResult

Kind = Literal["check label", "likely defect", "models disagree"]


@dataclass(frozen=True)
class Seen:
    """One image as all models of its line see it. excess: by model, in the model's own unit; see the module."""

    line: str
    image_id: str
    label: str
    excess: Mapping[str, float]

    @property
    def flagged_by(self) -> tuple[str, ...]:
        return tuple(sorted(model for model, excess in self.excess.items() if excess > 0))

    @property
    def score(self) -> float:
        """The mean excess over the models."""
        return statistics.mean(self.excess.values())


@dataclass(frozen=True)
class Flag:
    """An image to look at. models: those that flag it, of `of`. score: the mean excess over all models. kind, reason:
    why, in a word or two and in a sentence."""

    line: str
    image_id: str
    label: str
    models: tuple[str, ...]
    of: int
    score: float
    kind: Kind
    reason: str


def look(results: Sequence[UnitResult], scores: Mapping[str, ImageScores]) -> list[Seen]:
    """Every scored image, most anomalous first within its line. scores: by unit_id.

    Of several seeds the first counts; units without a threshold cannot flag and are left out.
    """
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for result in sorted(results, key=lambda one: one.seed):
        images = scores.get(result.unit_id)
        if images is None or result.threshold is None or result.threshold.value is None:
            continue
        for image_id, label, raw in zip(images.image_ids.tolist(), images.labels.tolist(), images.scores, strict=True):
            by_model = found.setdefault((result.line, image_id, label), {})
            by_model.setdefault(result.model, excess_of(float(raw), result.threshold))
    seen = [Seen(line, image_id, label, excess) for (line, image_id, label), excess in found.items()]
    return sorted(seen, key=lambda one: (one.line, -one.score, one.image_id))


def build_flags(seen: Sequence[Seen]) -> list[Flag]:
    """The annotation queue: most models first, then the highest mean excess, line by line."""
    flags = [
        Flag(one.line, one.image_id, one.label, one.flagged_by, len(one.excess), one.score, *reason)
        for one in seen
        if (reason := _reason(one)) is not None
    ]
    return sorted(flags, key=lambda flag: (flag.line, -len(flag.models), -flag.score, flag.image_id))


def top_images(seen: Sequence[Seen], count: int) -> Iterator[Seen]:
    """The `count` most anomalous images of each line."""
    left = dict.fromkeys((one.line for one in seen), count)
    for one in seen:
        if left[one.line]:
            left[one.line] -= 1
            yield one


def _reason(seen: Seen) -> tuple[Kind, str] | None:
    """None where nobody needs to look."""
    hits, of = len(seen.flagged_by), len(seen.excess)
    if seen.label == "ng":
        missed = f"labelled ng, but none of {of} models flags it: check the label, or it is hard to see"
        return None if hits else ("check label", missed)
    if seen.label == "ok":
        wrong = f"labelled ok, but all of {of} models flag it: check the label"
        return ("check label", wrong) if hits == of and of > 1 else None
    if hits == of:
        return "likely defect", f"likely a defect: all of {of} models agree"
    return ("models disagree", f"models disagree: {hits} of {of} flag it") if hits else None
