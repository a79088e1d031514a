"""Set thresholds on OK images alone by split conformal prediction (Vovk et al. 2005).

With n held-back OK scores, the threshold is the k-th smallest, k = ceil((n + 1)(1 - budget)). A new OK image of the
same process exceeds it with a probability of at most `budget`, for any distribution of the scores.

Images of one group, such as photographs of one part, are not independent. With G held-back groups, each group has the
weight 1 / (G + 1), shared by its images, and the same weight lies at infinity (Lee, Barber and Willett 2023,
*Distribution-free inference with hierarchical data*, pooled CDF). A new OK image of a new group then exceeds the
threshold with a probability of at most `budget`, however alike the images of a group are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from raybench.metrics.intervals import LEVEL, Indices
from raybench.metrics.numbers import Threshold

MAX_EXCESS = 10.0
"""Excess of a score a thousand times as far from a typical OK image as the threshold, and of all above."""
_ROUNDING = 1e-9  # rounding may lift (n + 1)(1 - budget) above an integer


def conformal_threshold(
    scores: npt.NDArray[np.float64], budget: float, groups: Sequence[str] | npt.NDArray[np.str_] | None = None
) -> Threshold:
    """Compute the threshold from scores of held-back OK images.

    Args:
        scores: (n,) float64, finite.
        budget: The false-alarm rate asked for.
        groups: (n,) str, the group of each image. None if each is a group of its own.

    Returns:
        The threshold; scores above it are flagged, equal ones are not. With too few groups for the budget it is the
        highest score, and `promised` is 1 / (groups + 1). Without images its value is None.

    Raises:
        ValueError: A score is not finite, or not every score has a group.
    """
    if not np.isfinite(scores).all():
        raise ValueError("held-back scores must be finite")
    n = len(scores)
    if n == 0:
        return Threshold(None, 0, budget, 0.0, None, "no held-back OK images")
    weights = np.ones(n) if groups is None else _weights(groups)
    if len(weights) != n:
        raise ValueError(f"{n} scores and {len(weights)} groups")
    count = round(float(weights.sum()))
    order = np.lexsort((weights, scores))
    below = np.cumsum(weights[order])  # in units of 1 / (count + 1), so that it is exact without groups
    at = min(int(np.searchsorted(below, (count + 1) * (1 - budget) - _ROUNDING)), n - 1)
    promised = float(count + 1 - below[at]) / (count + 1)
    if weights.min() < weights.max():
        # How far the weight below the threshold overshoots then depends on the scores, so only the budget is sure.
        promised = max(promised, budget)
    if count == n:
        low, high = false_alarm_interval(n, at + 1)
        kind, note = "images", f"on {n} held-back OK images; the rate it really has lies in {low:.3f}..{high:.3f}"
    else:
        kind, note = "groups", f"on {n} held-back OK images of {count} groups"
    if promised > budget + _ROUNDING:
        needed = math.ceil(1 / budget - _ROUNDING) - 1
        note += f"; a budget of {budget:g} needs at least {needed} {kind}, these can promise {promised:.3f}"
    return Threshold(float(scores[order[at]]), n, budget, promised, float(np.median(scores)), note, count)


def _weights(groups: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """Return 1 / (number of images in its group) of each image, (n,) float64."""
    _, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights: npt.NDArray[np.float64] = 1 / sizes[index]
    return weights


def conformal_quantiles(
    scores: npt.NDArray[np.float64], groups: Indices, weights: npt.NDArray[np.float64], budget: float
) -> npt.NDArray[np.float64]:
    """Compute the threshold of each resample of the held-back images.

    Args:
        scores: (n,) float64, at least one.
        groups: (n,) number of each image's group.
        weights: (B, n) weight of each image in each resample, equal within groups.
        budget: The false-alarm rate asked for.

    Returns:
        (B,) float64; with weights of 1, the value of `conformal_threshold`.
    """
    sizes = np.bincount(groups)
    count = len(sizes)
    order = np.lexsort((1 / sizes[groups], scores))
    shared = (weights / sizes[groups])[:, order]
    below = np.cumsum(shared, axis=1) * (count / shared.sum(axis=1, keepdims=True))
    at = (below < (count + 1) * (1 - budget) - _ROUNDING).sum(axis=1).clip(max=len(scores) - 1)
    limits: npt.NDArray[np.float64] = scores[order][at]
    return limits


def cross_fitted_alarms(
    scores: npt.NDArray[np.float64], groups: Indices, budget: float, folds: int = 5
) -> npt.NDArray[np.bool_]:
    """Compare each image with the threshold that images of other groups set.

    Args:
        scores: (n,) float64.
        groups: (n,) number of each image's group, from 0 without gaps.
        budget: The false-alarm rate asked for.
        folds: Number of parts; each is compared with the threshold of the others.

    Returns:
        (n,) bool: whether the image is above it. All True where the other parts have no images.
    """
    fold = np.random.default_rng(0).permutation(int(groups.max(initial=-1)) + 1)[groups] % folds
    alarms = np.ones(len(scores), bool)
    for number in np.unique(fold):
        others = fold != number
        limit = conformal_threshold(scores[others], budget, groups[others].astype(np.str_)).value
        if limit is not None:
            alarms[~others] = scores[~others] > limit
    return alarms


def excess_of(score: float, threshold: Threshold) -> float:
    """Return how far `score` lies above the threshold, on a scale that models of different scales share.

    The unit is the distance from a typical OK image to the threshold. Above the threshold distances count by their
    logarithm, because the tails of OK scores differ more than anything else between models: the OK image that only one
    in 1,000 exceeds has an excess of 0.9 if scores are normal, 1.4 if exponential and 2.3 if lognormal; without the
    logarithm it would be 0.9, 1.7 and 4.0.

    Args:
        score: Raw image score.
        threshold: A threshold with a value.

    Returns:
        -1 at the median of OK images, 0 at the threshold, 1 twice as far from the median, 2 four times, at most
        MAX_EXCESS.
    """
    value, typical = threshold.value or 0.0, threshold.typical or 0.0
    if value <= typical:  # all held-back images have the same score
        return MAX_EXCESS if score > value else 0.0
    if score <= value:
        return (score - value) / (value - typical)
    # A score one rounding above the threshold is flagged, so its excess must exceed 0.
    return min(max(math.log2((score - typical) / (value - typical)), math.ulp(0.0)), MAX_EXCESS)


def score_at_excess(excess: float, threshold: Threshold) -> float:
    """Return the score that has this excess over the threshold, from -1 on; the inverse of `excess_of`."""
    value, typical = threshold.value or 0.0, threshold.typical or 0.0
    return typical + (value - typical) * (1 + excess if excess <= 0 else 2.0**excess)


def false_alarm_interval(n: int, rank: int) -> tuple[float, float]:
    """Return the middle 95 % of Beta(n + 1 - rank, rank), the false-alarm rate at the `rank`-th of n scores."""
    low, high = special.betaincinv(n + 1 - rank, rank, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
