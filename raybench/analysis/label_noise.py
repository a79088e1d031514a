"""Find label noise: OK training images that look anomalous to detectors that were not trained on them.

The candidates are the OK images held back for the threshold. For one model, an image is an *outlier* if it scores above
Tukey's outer fence, the upper quartile plus three interquartile ranges (Tukey 1977, *Exploratory Data Analysis*).
Scores are skewed, so twice the distance from median to upper quartile replaces the interquartile range if it is larger.
Quartiles tolerate up to 25 % outliers. A fence based on the maximum, or on a quantile near it, would let one outlier
mask another.

The excess of an image is measured over the threshold that the images without outliers set (`metrics.threshold`). An
image is suspicious if it is an outlier for more than half of the voting models. In simulations with 24 clean images one
model finds 0.02 % outliers if scores are normal, 0.3 % if they are gamma with shape 4, and 0.9 % if they are
exponential. With fewer than FEWEST held-back images nothing is flagged.

Training images that were not held back cannot be checked this way: some models memorise them. The report gives the
number of checked images; a larger `held_out` checks more.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raybench.analysis.flags import BAD_WEIGHT, Flag, Reason, bad_image, soft_vote
from raybench.metrics.image import Floats, ImageScores
from raybench.metrics.threshold import conformal_threshold, excess_of

FEWEST = 8
FENCE = 3.0
Bools = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of the OK images of one line that were held back from training."""

    line: str
    scores: Mapping[str, ImageScores]
    """Image scores by voting model."""
    budget: float
    """False-alarm budget of the line."""

    @property
    def count(self) -> int:
        """Number of images; the same for every model."""
        return max((len(images.image_ids) for images in self.scores.values()), default=0)


def suspected_label_noise(held_out: HeldOutScores, bad: Mapping[str, str] | None = None) -> list[Flag]:
    """Flag suspicious training images.

    Args:
        held_out: Scores of the held-back images of a line.
        bad: Description of the fault of each bad picture, by image_id.
    """
    by_image: defaultdict[str, dict[str, tuple[bool, float]]] = defaultdict(dict)
    large_enough = {model: images for model, images in held_out.scores.items() if len(images.scores) >= FEWEST}
    for model, images in sorted(large_enough.items()):
        outliers, excesses = _outliers_and_excess(images, held_out.budget)
        for image_id, outlier, excess in zip(images.image_ids.tolist(), outliers.tolist(), excesses, strict=True):
            by_image[image_id][model] = (outlier, excess)
    faults = bad or {}
    flags = (_flag(held_out, image_id, by, faults.get(image_id, "")) for image_id, by in sorted(by_image.items()))
    return [flag for flag in flags if flag is not None]


def is_outlier(scores: Floats) -> Bools:
    """Mark scores above the outer fence.

    Args:
        scores: (n,) float64.

    Returns:
        (n,) bool; all False if the upper quartile equals the median.
    """
    lower, middle, upper = np.quantile(scores, [0.25, 0.5, 0.75])
    if upper <= middle:
        return np.zeros(len(scores), bool)
    return np.asarray(scores > upper + FENCE * max(upper - lower, 2 * (upper - middle)))


def _outliers_and_excess(images: ImageScores, budget: float) -> tuple[Bools, list[float]]:
    """Mark outliers, and return the excess of each score over the threshold of the others."""
    outliers = is_outlier(images.scores)
    threshold = conformal_threshold(images.scores[~outliers], budget, images.groups[~outliers])
    return outliers, [excess_of(score, threshold) for score in images.scores.tolist()]


def _flag(held_out: HeldOutScores, image_id: str, by: Mapping[str, tuple[bool, float]], fault: str) -> Flag | None:
    """Flag an image that is an outlier for most models. by: whether it is one, and its excess, by model."""
    models = tuple(model for model, (outlier, _) in by.items() if outlier)
    if len(models) * 2 <= len(by):
        return None
    excesses = [excess for _, excess in by.values()]
    peers = f"the other {held_out.count - 1} held back"
    who = f"{len(models)} of {len(by)} models" if len(by) > 1 else "the model"
    words = f"an OK training image, but {who}, not trained on it, put{'s' * (len(by) == 1)} it far above {peers}"
    reasons: list[Reason] = [("suspicious training image", words)]
    if fault:
        reasons.insert(0, bad_image(fault))
    kinds = tuple(kind for kind, _ in reasons)
    return Flag(
        line=held_out.line,
        image_id=image_id,
        label="ok",
        models=models,
        of=len(by),
        score=statistics.fmean(excesses),
        kind=kinds[0],
        reason="; ".join(text for _, text in reasons),
        kinds=kinds,
        usefulness=soft_vote(excesses) * (BAD_WEIGHT if fault else 1.0),
    )
