"""Evaluate an annotation queue on labelled images: how many of the images within the budget are NG.

The labels of the test images are hidden, and flags and queue are built from them as usual, but for random checks. The
share of NG images within the rest of the budget is compared with the share among as many images with the highest mean
excess, and among as many random images. The voting models were chosen by the verdict, which used these labels: on
future images the shares may be slightly lower, for the queue and for the highest excess alike.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from raybench.analysis.flags import Flag, ScoredImage, build_flags
from raybench.analysis.queue import rank_flags
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.intervals import LEVEL, clopper_pearson
from raybench.metrics.numbers import Estimate


@dataclass(frozen=True)
class Spread:
    """The diversity of the picked images."""

    types: int | None
    """Number of defect types among them; None if unknown."""
    reach: float | None
    """Coverage: mean distance of a flagged image to the nearest picked one, in units of the typical distance between
    two images. None if unknown."""


@dataclass(frozen=True)
class QueueEvaluation:
    """The annotation queue of one line in numbers. `precision` and all later fields are measured with labels hidden."""

    line: str
    budget: int
    flagged: int
    """Number of images in the queue."""
    picked: int
    """Number of images within the budget."""
    random_checks: int
    """Number of random checks among them."""
    checked: int
    """Number of held-back OK training images that were checked for label noise."""
    suspicious: int
    """Number of flagged images among them."""
    precision: Estimate
    """Share of NG among the picked images, with its Clopper-Pearson interval."""
    by_score: Estimate
    """Share of NG among as many images with the highest mean excess."""
    at_random: Estimate
    """Expected share of NG among as many random images, with the central 95 % of such draws (hypergeometric)."""
    spread: Spread
    """Diversity of the picked images."""
    spread_by_score: Spread
    """Diversity of as many images with the highest mean excess."""
    types: int
    """Number of defect types among all images."""
    diverse: bool
    """Whether diversity was considered; False if no model's images have descriptors."""

    @property
    def sentence(self) -> str:
        """The evaluation for a person."""
        return f"{self.line}: {self._queue()}{self._precision()}{self._label_noise()}"

    def _queue(self) -> str:
        how = "" if self.diverse or not self.flagged else " by usefulness alone (heat maps have not been described)"
        images = "1 image" if self.flagged == 1 else f"{self.flagged} images"
        chance = f", {self.random_checks} of them at random," if self.random_checks else ""
        return f"{images} flagged, {self.picked} picked{chance}{how} for a budget of {self.budget}."

    def _precision(self) -> str:
        if self.precision.value is None:
            return ""
        text = (
            f" With labels hidden, {_percent(self.precision)} of the first {self.precision.n} are NG; by score alone "
            f"{_percent(self.by_score)}, at random {_percent(self.at_random)}"
        )
        queue, top = self.spread, self.spread_by_score
        if self.types > 1:
            text += f"; {queue.types} of {self.types} defect types, by score alone {top.types}"
        if queue.reach is not None and top.reach is not None:
            text += f"; flagged images lie {queue.reach:.2f} from a picked one, by score alone {top.reach:.2f}"
        return f"{text}."

    def _label_noise(self) -> str:
        if not self.checked:
            return ""
        return f" {self.suspicious} of {self.checked} OK training images held back are suspicious."


def evaluate_queue(
    flags: Sequence[Flag], images: Sequence[ScoredImage], descriptors: Descriptors, budget: int, checked: int
) -> QueueEvaluation:
    """Evaluate the queue of a line.

    Args:
        flags: The line's ranked flags.
        images: The line's scored images, at least one.
        descriptors: Descriptors of these images.
        budget: Number of images to annotate.
        checked: Number of held-back images that were checked for label noise.
    """
    at_random = sum("random check" in flag.kinds for flag in flags)
    labelled = [image for image in images if image.label in ("ok", "ng") and image.counts]
    ng = {image.image_id for image in labelled if image.label == "ng"}
    hidden = build_flags([replace(image, label="unknown") for image in labelled])
    queue = rank_flags(hidden, descriptors, budget - at_random)
    picked = [flag.image_id for flag in queue if flag.picked]
    by_score = sorted(labelled, key=lambda image: (-image.score, image.image_id))
    highest = [image.image_id for image in by_score[: len(picked)]]
    flagged = [flag.image_id for flag in queue]
    return QueueEvaluation(
        line=images[0].line,
        budget=budget,
        flagged=len(flags),
        picked=sum(flag.picked for flag in flags),
        random_checks=at_random,
        checked=checked,
        suspicious=sum("suspicious training image" in flag.kinds for flag in flags),
        precision=_precision(picked, ng, len(labelled)),
        by_score=_precision(highest, ng, len(labelled)),
        at_random=_random_precision(len(picked), len(ng), len(labelled)),
        spread=_spread(picked, flagged, ng, descriptors),
        spread_by_score=_spread(highest, flagged, ng, descriptors),
        types=len(_defect_types(ng, descriptors)),
        diverse=len(descriptors.image_ids) > 0,
    )


def _precision(picked: Sequence[str], ng: Collection[str], labelled: int) -> Estimate:
    n, hits = len(picked), sum(image_id in ng for image_id in picked)
    if undefined := _undefined(n, len(ng), labelled):
        return undefined
    return Estimate(hits / n, *clopper_pearson(hits, n), n)


def _random_precision(n: int, ng: int, labelled: int) -> Estimate:
    if undefined := _undefined(n, ng, labelled):
        return undefined
    from scipy import stats  # takes most of a second to import, and few runs have an evaluated queue

    draw = stats.hypergeom(labelled, ng, n)
    low, high = (float(draw.ppf(quantile)) / n for quantile in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(ng / labelled, low, high, n)


def _undefined(n: int, ng: int, labelled: int) -> Estimate | None:
    """Return an undefined estimate if every queue has the same precision, or if nothing is picked."""
    if not 0 < ng < labelled:
        return Estimate(None, n=labelled, reason=f"no {'OK' if ng else 'NG'} images in the test split")
    return None if n else Estimate(None, n=labelled, reason="no image is flagged")


def _spread(picked: Sequence[str], flagged: Sequence[str], ng: Collection[str], descriptors: Descriptors) -> Spread:
    types = None
    if len(descriptors.image_ids):
        types = len(_defect_types([image_id for image_id in picked if image_id in ng], descriptors))
    return Spread(types, _coverage(picked, flagged, descriptors))


def _defect_types(image_ids: Collection[str], descriptors: Descriptors) -> set[str]:
    return set(descriptors.only(sorted(image_ids)).defect_types.tolist()) - {""}


def _coverage(picked: Sequence[str], flagged: Sequence[str], descriptors: Descriptors) -> float | None:
    """Return the mean distance of flagged images to the nearest picked one, None if an image has no descriptor."""
    image_ids = sorted({*picked, *flagged})
    points = descriptors.points(image_ids)
    index = {image_id: position for position, image_id in enumerate(image_ids)}
    if not picked or np.isnan(points).any():
        return None
    tree = cKDTree(points[[index[image_id] for image_id in picked]])
    nearest, _ = tree.query(points[[index[image_id] for image_id in flagged]])
    return float(np.minimum(nearest, 1.0).mean())


def _percent(number: Estimate) -> str:
    return f"{number.value:.0%} ({number.low:.0%}–{number.high:.0%})"
