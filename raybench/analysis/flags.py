"""Flag the images that a person should look at, with the reasons.

Scores of different models have different scales. They are compared as *excess* (`metrics.threshold.excess_of`): -1 at
a typical OK image, 0 at the threshold, 1 twice as far from a typical OK image as the threshold.

Not all models vote. If the verdict names a model, it votes with all models that are good enough, admissible and at most
VOTES_WITHIN behind: a worse model would flag images that the others rightly leave alone, and would question images that
they rightly flag. Otherwise, as on a line without labels, all models vote.

An image is flagged for one reason or several. The first reason of this list that applies is its `kind`:

bad image          the picture, not the product, is at fault; scores of the models mean little
check label        labelled NG and no model flags it, or labelled OK and all models flag it
suspicious training image
                   an OK training image that looks anomalous to models not trained on it; see `label_noise`
likely defect      above the threshold of more than half of the models
models disagree    above some thresholds and below others, with excesses more than NEAR apart
near threshold     the models agree, and their median excess is at most NEAR from the threshold
random check       picked at random, see `queue`

*Usefulness*, from 0 to 1, orders the queue. It is the mean of the models' soft votes, which are 0.5 at the threshold
and 0.88 at an excess of 1. An NG label that no model confirms and a bad picture count less.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from raybench.analysis.verdict import GRADES, NOT_GOOD_ENOUGH, Verdict
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import MAX_EXCESS, excess_of
from raybench.runs.records import UnitResult

NEAR = 0.25
VOTES_WITHIN = 0.1  # expected loss of utility of a model that still votes
CLEAR = 1.0  # excess that a single model needs to question an OK label
SOFTNESS = 0.5
BAD_WEIGHT, MISSED_WEIGHT = 0.25, 0.5

Kind = Literal[
    "bad image",
    "check label",
    "suspicious training image",
    "likely defect",
    "models disagree",
    "near threshold",
    "random check",
]
Reason = tuple[Kind, str]
_AT_RANDOM: Reason = "random check", "picked at random: such images say how often a model is wrong"


@dataclass(frozen=True)
class ScoredImage:
    """An image with the scores of all models of its line."""

    line: str
    image_id: str
    label: str
    excess: Mapping[str, float]
    """Excess over the threshold by model."""
    best: tuple[str, ...] = ()
    """Models that vote; empty if all do."""
    group: str = ""
    """What belongs together, such as photographs of one part. Empty if the image is a group of its own."""
    pool: str = ""
    """Pool of unlabelled images that it was packed in, see `ImageScores.pools`."""
    counts: bool = True
    """Whether its label counts in metrics, see `ImageScores.counts`."""

    @functools.cached_property
    def counted(self) -> Mapping[str, float]:
        """Excess of the voting models, or of all models if no voting model has a threshold."""
        return {model: self.excess[model] for model in self.best if model in self.excess} or self.excess

    @property
    def flagged_by(self) -> tuple[str, ...]:
        """Voting models whose threshold the image exceeds."""
        return tuple(sorted(model for model, excess in self.counted.items() if excess > 0))

    @functools.cached_property
    def score(self) -> float:
        """Mean excess over the voting models."""
        return statistics.fmean(self.counted.values())


@dataclass(frozen=True)
class Flag:
    """An image that a person should look at."""

    line: str
    image_id: str
    label: str
    models: tuple[str, ...]
    """Voting models that flag it."""
    of: int
    """Number of voting models."""
    score: float
    """Mean excess over the voting models."""
    kind: Kind
    """The first of `kinds`."""
    reason: str
    """One clause for each of `kinds`."""
    kinds: tuple[Kind, ...] = ()
    """All kinds that apply."""
    usefulness: float = 0.0
    """From 0 to 1."""
    rank: int = 0
    """Place in the line's queue, from 1."""
    picked: bool = False
    """Whether it lies within the annotation budget."""
    signal: str | None = None
    """Type of the anomaly (see `anomaly_types`); None if it was not classified."""
    signal_confidence: float | None = None
    """Probability of that type, 0 to 1."""
    signal_evidence: str | None = None
    """Evidence for that type, in words."""


def voting_models(verdict: Verdict) -> tuple[str, ...]:
    """Return the models that vote on the verdict's line; empty if it names no model."""
    if verdict.run is None:
        return ()
    good = GRADES.index(NOT_GOOD_ENOUGH)
    near = (
        model
        for model, standing in verdict.standings.items()
        if standing.loss <= VOTES_WITHIN and GRADES.index(verdict.grades[model]) < good
    )
    return tuple(sorted({verdict.run, *verdict.tied, *near}))


def collect_scores(
    results: Sequence[UnitResult], scores: Mapping[str, ImageScores], best: Mapping[str, tuple[str, ...]] | None = None
) -> list[ScoredImage]:
    """Collect the excess of every image over the models' thresholds.

    The first seed of a model counts. Units without a threshold cannot flag and are left out.

    Args:
        results: Results of units.
        scores: Image scores by unit_id.
        best: Voting models by line; all models of a line that is not in it.

    Returns:
        The images by line, the most anomalous first.
    """
    excesses: dict[tuple[str, str], dict[str, float]] = {}
    about: dict[tuple[str, str], tuple[str, str, str, bool]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        images, threshold = scores.get(result.unit_id), result.trained.threshold
        if images is None or threshold.value is None:
            continue
        names = ("image_ids", "scores", "labels", "groups", "pools", "counts")
        columns = (getattr(images, name).tolist() for name in names)
        for image_id, raw, label, group, pool, counts in zip(*columns, strict=True):
            about[result.line, image_id] = label, group if group != image_id else "", pool, counts
            by_model = excesses.setdefault((result.line, image_id), {})
            by_model.setdefault(result.model, excess_of(raw, threshold))
    voters = best or {}
    scored = []
    for (line, image_id), excess in excesses.items():
        label, group, pool, counts = about[line, image_id]
        scored.append(ScoredImage(line, image_id, label, excess, voters.get(line, ()), group, pool, counts))
    return sorted(scored, key=lambda image: (image.line, -image.score, image.image_id))


def build_flags(
    images: Sequence[ScoredImage], bad: Mapping[str, str] | None = None, *, at_random: bool = False
) -> list[Flag]:
    """Flag the images that a person should look at; `queue.rank_flags` orders them.

    Args:
        images: Scored images; with `bad`, of one line.
        bad: Description of the fault of each bad picture, by image_id.
        at_random: Whether the images are random checks, so that all are flagged.
    """
    faults = bad or {}
    flags = (_flag(image, faults.get(image.image_id, ""), at_random) for image in images)
    return [flag for flag in flags if flag is not None]


def top_images(images: Sequence[ScoredImage], count: int) -> Iterable[ScoredImage]:
    """Yield the first `count` images of each line."""
    left = dict.fromkeys((image.line for image in images), count)
    for image in images:
        if left[image.line]:
            left[image.line] -= 1
            yield image


def soft_vote(excess: Iterable[float]) -> float:
    """Return the mean of the models' soft votes that an image is anomalous: above 0, at most 1."""
    return statistics.fmean(1 / (1 + math.exp(-max(value, -MAX_EXCESS) / SOFTNESS)) for value in excess)


def bad_image(words: str) -> Reason:
    """Return the reason for flagging a bad picture."""
    return "bad image", f"a bad picture ({words}): what models say of it is worth little"


def _flag(image: ScoredImage, fault: str, at_random: bool) -> Flag | None:
    """Flag an image if there is a reason to."""
    reasons = [*([bad_image(fault)] if fault else []), *_reasons(image), *([_AT_RANDOM] if at_random else [])]
    if not reasons:
        return None
    kinds = tuple(kind for kind, _ in reasons)
    why = "; ".join(words for _, words in reasons)
    return Flag(
        line=image.line,
        image_id=image.image_id,
        label=image.label,
        models=image.flagged_by,
        of=len(image.counted),
        score=image.score,
        kind=kinds[0],
        reason=why,
        kinds=kinds,
        usefulness=_usefulness(image) * (BAD_WEIGHT if fault else 1.0),
    )


def _usefulness(image: ScoredImage) -> float:
    vote = soft_vote(image.counted.values())
    return MISSED_WEIGHT * (1 - vote) if image.label == "ng" else vote


def _reasons(image: ScoredImage) -> list[Reason]:
    if image.label in ("ok", "ng"):
        return _label_reasons(image)
    hits, of = len(image.flagged_by), len(image.counted)
    reasons: list[Reason] = []
    if hits * 2 > of:
        who = f"all of {of} models agree" if hits == of else f"{hits} of {of} models agree"
        reasons.append(("likely defect", f"likely a defect: {who if of > 1 else 'above the threshold'}"))
    lowest, highest = min(image.counted.values()), max(image.counted.values())
    middle = statistics.median(image.counted.values())
    if 0 < hits < of and highest - lowest > NEAR:
        reasons.append(("models disagree", f"models disagree: {hits} of {of} flag it"))
    elif abs(middle) <= NEAR:
        side = "above" if middle > 0 else "below"
        reasons.append(("near threshold", f"uncertain: {side} the threshold by an excess of {abs(middle):.2f}"))
    return reasons


def _label_reasons(image: ScoredImage) -> list[Reason]:
    hits, of = len(image.flagged_by), len(image.counted)
    if image.label == "ng" and not hits:
        words = f"none of {of} models flags it" if of > 1 else "the model does not flag it"
        return [("check label", f"labelled NG, but {words}: check the label, or it is hard to see")]
    if image.label == "ok" and hits == of and (of > 1 or image.score > CLEAR):
        words = f"all of {of} models flag it" if of > 1 else "it lies far above the threshold"
        return [("check label", f"labelled OK, but {words}: check the label")]
    return []
