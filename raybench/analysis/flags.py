"""Which images a person should look at, and why.

Scores of different models have different scales. They are compared in each model's own unit, the *excess*: how far an
image lies above the threshold, divided by how far the threshold lies above a typical OK image.

Not all models have a say. Where the line has a verdict, those count that it names or ties or calls good (or cannot
tell yet): a model that is *not good* there would flag what the others rightly leave alone, and would call in question
what they rightly flag. Where there is no verdict, as on a line without labels, all count.

An image is flagged for one reason or for several; the first of these that holds is its `kind`:

bad image          the picture, not the product, is at fault; what models say of it is worth little
check label        labelled NG and no model sees why, or labelled OK and all models flag it
suspicious training image
                   an OK training image that looks anomalous when it is held back; see `suspects`
likely defect      above the threshold of more than half of the models
models disagree    above some thresholds and not above others, by more than a hair
near threshold     the models agree, and their median lies NEAR of a unit or less from the threshold: they are unsure

*Usefulness*, from 0 to 1, orders the queue: each model's excess as a soft vote, 0.5 at the threshold and 0.88 one unit
above it, and the mean of the votes; an NG label that no model confirms and a bad picture count less.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raybench.analysis.decision import NOT_GOOD, Verdict
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import MAX_EXCESS, excess_of
from raybench.runs.records import UnitResult

NEAR = 0.25
CLEAR = 1.0  # excess that one model alone needs to call an OK label in question
SOFTNESS = 0.5
BAD_WEIGHT, MISSED_WEIGHT = 0.25, 0.5

Kind = Literal[
    "bad image", "check label", "suspicious training image", "likely defect", "models disagree", "near threshold"
]
Reason = tuple[Kind, str]


@dataclass(frozen=True)
class ScoredImage:
    """One image as the models of its line see it. excess: by model, in the model's own unit; see the module. best:
    the models that count; empty: all."""

    line: str
    image_id: str
    label: str
    excess: Mapping[str, float]
    best: tuple[str, ...] = ()

    @functools.cached_property
    def counted(self) -> Mapping[str, float]:
        """The excess of the models that count; of all where none of those has a threshold."""
        return {model: self.excess[model] for model in self.best if model in self.excess} or self.excess

    @property
    def flagged_by(self) -> tuple[str, ...]:
        return tuple(sorted(model for model, excess in self.counted.items() if excess > 0))

    @functools.cached_property
    def score(self) -> float:
        """The mean excess over the models that count."""
        return statistics.fmean(self.counted.values())


@dataclass(frozen=True)
class Flag:
    """An image to look at. models: those that flag it, of `of` that count. score: their mean excess. kind: the first
    of `kinds`, all that hold. reason: why, in a sentence for each. usefulness: from 0 to 1. rank: place in the line's
    queue, from 1. picked: whether the annotation budget reaches it. signal: what kind of anomaly it looks like, with a
    probability and the evidence (see `signals`); None where nobody has looked."""

    line: str
    image_id: str
    label: str
    models: tuple[str, ...]
    of: int
    score: float
    kind: Kind
    reason: str
    kinds: tuple[Kind, ...] = ()
    usefulness: float = 0.0
    rank: int = 0
    picked: bool = False
    signal: str | None = None
    signal_confidence: float | None = None
    signal_evidence: str | None = None


def voting_models(verdict: Verdict) -> tuple[str, ...]:
    """The models that count on the verdict's line; none where it has nothing to say. See the module."""
    if verdict.run is None:
        return ()
    good = (model for model, grade in verdict.grades.items() if grade != NOT_GOOD)
    return tuple(sorted({verdict.run, *verdict.tied, *good}))


def collect_scores(
    results: Sequence[UnitResult], scores: Mapping[str, ImageScores], best: Mapping[str, tuple[str, ...]] | None = None
) -> list[ScoredImage]:
    """Every scored image, most anomalous first within its line. scores: by unit_id. best: by line, see `ScoredImage`.

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
    of_line = best or {}
    seen = [
        ScoredImage(line, image, label, excess, of_line.get(line, ())) for (line, image, label), excess in found.items()
    ]
    return sorted(seen, key=lambda one: (one.line, -one.score, one.image_id))


def build_flags(seen: Sequence[ScoredImage], bad: Mapping[str, str] | None = None) -> list[Flag]:
    """A flag for each image that somebody should look at; `queue.line_up` puts them in order. bad: what is wrong with
    a picture, by image id; then `seen` must be of one line."""
    faults = bad or {}
    return [flag for one in seen if (flag := _flag(one, faults.get(one.image_id, ""))) is not None]


def top_images(seen: Sequence[ScoredImage], count: int) -> Iterable[ScoredImage]:
    """The `count` most anomalous images of each line."""
    left = dict.fromkeys((one.line for one in seen), count)
    for one in seen:
        if left[one.line]:
            left[one.line] -= 1
            yield one


def soft_vote(excess: Iterable[float]) -> float:
    """The mean of the models' soft votes that an image is anomalous: above 0, at most 1."""
    return statistics.fmean(1 / (1 + math.exp(-max(one, -MAX_EXCESS) / SOFTNESS)) for one in excess)


def bad_image(words: str) -> Reason:
    return "bad image", f"a bad picture ({words}): what models say of it is worth little"


def _flag(seen: ScoredImage, fault: str) -> Flag | None:
    """None where nobody needs to look."""
    reasons = [*([bad_image(fault)] if fault else []), *_reasons(seen)]
    if not reasons:
        return None
    kinds = tuple(kind for kind, _ in reasons)
    why = "; ".join(words for _, words in reasons)
    useful = _usefulness(seen) * (BAD_WEIGHT if fault else 1.0)
    by = seen.flagged_by
    return Flag(
        seen.line, seen.image_id, seen.label, by, len(seen.counted), seen.score, kinds[0], why, kinds, useful
    )  # fmt: skip


def _usefulness(seen: ScoredImage) -> float:
    found = soft_vote(seen.counted.values())
    return MISSED_WEIGHT * (1 - found) if seen.label == "ng" else found


def _reasons(seen: ScoredImage) -> list[Reason]:
    if seen.label in ("ok", "ng"):
        return _of_label(seen)
    hits, of = len(seen.flagged_by), len(seen.counted)
    found: list[Reason] = []
    if hits * 2 > of:
        who = f"all of {of} models agree" if hits == of else f"{hits} of {of} models agree"
        found.append(("likely defect", f"likely a defect: {who if of > 1 else 'above the threshold'}"))
    lowest, highest = min(seen.counted.values()), max(seen.counted.values())
    middle = statistics.median(seen.counted.values())
    if 0 < hits < of and highest - lowest > NEAR:
        found.append(("models disagree", f"models disagree: {hits} of {of} flag it"))
    elif abs(middle) <= NEAR:
        side = "above" if middle > 0 else "below"
        found.append(("near threshold", f"uncertain: {abs(middle):.2f} of a unit {side} the threshold"))
    return found


def _of_label(seen: ScoredImage) -> list[Reason]:
    hits, of = len(seen.flagged_by), len(seen.counted)
    if seen.label == "ng" and not hits:
        words = f"none of {of} models flags it" if of > 1 else "the model does not flag it"
        return [("check label", f"labelled ng, but {words}: check the label, or it is hard to see")]
    if seen.label == "ok" and hits == of and (of > 1 or seen.score > CLEAR):
        words = f"all of {of} models flag it" if of > 1 else "it lies far above the threshold"
        return [("check label", f"labelled ok, but {words}: check the label")]
    return []
