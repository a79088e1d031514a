"""OK training images that look anomalous to detectors that were not trained on them: dirty training data.

The OK images held back for the threshold are such images. For one model, one of them is *far out* when it scores above
the far-out fence: three times the distance between the quartiles above the upper one (Tukey 1977, *Exploratory Data
Analysis*), that distance taken as twice the way from median to upper quartile where that is more, since scores are
skewed. Quartiles stay where they are with up to a quarter of dirt; compared with the highest of its fellows, or with a
quantile near it, a dirty image would hide behind another.

What is far out lies above the threshold that the other held-back images set (`metrics.threshold`), and its excess is
taken over that one: those that are far out have no say in it. An image is suspicious when it is far out for more than
half of the models that count. Of 24 clean images one model finds 0.02 % far out where scores are normal, 0.3 % where
they are gamma with shape 4, and 0.9 % where they fall off like an exponential (simulated). Fewer than FEWEST held-back
images tell nothing.

Training images that were not held back cannot be looked at so: some models know them by heart. The report says how many
were; a larger `held_out` covers more.
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


@dataclass(frozen=True)
class HeldOutScores:
    """The OK images of one line that were kept back from training. scores: of each model that counts. budget: for
    false alarms."""

    line: str
    scores: Mapping[str, ImageScores]
    budget: float

    @property
    def count(self) -> int:
        """Images; the same for every model."""
        return max((len(images.image_ids) for images in self.scores.values()), default=0)


def suspected_label_noise(held_back: HeldOutScores, bad: Mapping[str, str] | None = None) -> list[Flag]:
    """Flags of suspicious training images. bad: what is wrong with a picture, by image id."""
    by_image: defaultdict[str, dict[str, tuple[bool, float]]] = defaultdict(dict)
    able = {model: images for model, images in held_back.scores.items() if len(images.scores) >= FEWEST}
    for model, images in sorted(able.items()):
        far, excess = _jackknife(images.scores, held_back.budget)
        for image_id, is_far, above in zip(images.image_ids.tolist(), far.tolist(), excess, strict=True):
            by_image[image_id][model] = (is_far, above)
    faults = bad or {}
    found = (_flag(held_back, image, by, faults.get(image, "")) for image, by in sorted(by_image.items()))
    return [flag for flag in found if flag is not None]


def is_outlier(scores: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,): which scores lie above the fence. None where more than a quarter of them are equal to the median."""
    lower, middle, upper = np.quantile(scores, [0.25, 0.5, 0.75])
    if upper <= middle:
        return np.zeros(len(scores), bool)
    return np.asarray(scores > upper + FENCE * max(upper - lower, 2 * (upper - middle)))


def _jackknife(scores: Floats, budget: float) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], list[float]]:
    """Which are far out, and the excess of each over the threshold of those that are not."""
    far = is_outlier(scores)
    threshold = conformal_threshold(scores[~far], budget)
    return far, [excess_of(score, threshold) for score in scores.tolist()]


def _flag(held_back: HeldOutScores, image_id: str, by: Mapping[str, tuple[bool, float]], fault: str) -> Flag | None:
    models = tuple(model for model, (far, _) in by.items() if far)
    if len(models) * 2 <= len(by):
        return None
    excess = [above for _, above in by.values()]
    fellows = f"the other {held_back.count - 1} held back"
    who = f"{len(models)} of {len(by)} models" if len(by) > 1 else "the model"
    words = f"an OK training image, but {who}, not trained on it, put{'s' * (len(by) == 1)} it far above {fellows}"
    reasons: list[Reason] = [("suspicious training image", words)]
    if fault:
        reasons.insert(0, bad_image(fault))
    kinds = tuple(kind for kind, _ in reasons)
    useful = soft_vote(excess) * (BAD_WEIGHT if fault else 1.0)
    return Flag(
        line=held_back.line,
        image_id=image_id,
        label="ok",
        models=models,
        of=len(by),
        score=statistics.fmean(excess),
        kind=kinds[0],
        reason="; ".join(text for _, text in reasons),
        kinds=kinds,
        usefulness=useful,
    )
