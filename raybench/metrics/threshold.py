"""Set thresholds on OK images alone by split conformal prediction (Vovk et al. 2005).

With n held-back OK scores, the threshold is the k-th smallest, k = ceil((n + 1)(1 - budget)). A new OK image of the
same process exceeds it with a probability of at most `budget`, for any distribution of the scores.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.metrics.intervals import LEVEL
from raybench.metrics.numbers import Threshold

MAX_EXCESS = 100.0
_ROUNDING = 1e-9  # rounding may lift (n + 1)(1 - budget) above an integer


def conformal_threshold(scores: npt.NDArray[np.float64], budget: float) -> Threshold:
    """Compute the threshold from scores of held-back OK images.

    Args:
        scores: (n,) float64, finite.
        budget: The false-alarm rate asked for.

    Returns:
        The threshold; scores above it are flagged, equal ones are not. With too few images for the budget it is the
        highest score, and `promised` is 1 / (n + 1). Without images its value is None.

    Raises:
        ValueError: A score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("held-back scores must be finite")
    n = len(scores)
    if n == 0:
        return Threshold(None, 0, budget, 0.0, None, "no held-back OK images")
    rank = min(math.ceil((n + 1) * (1 - budget) - _ROUNDING), n)
    promised = (n + 1 - rank) / (n + 1)
    low, high = false_alarm_interval(n, rank)
    note = f"on {n} held-back OK images; the rate it really has lies in {low:.3f}..{high:.3f}"
    if promised > budget + _ROUNDING:
        needed = math.ceil(1 / budget - _ROUNDING) - 1
        note += f"; a budget of {budget:g} needs at least {needed} images, these can promise {promised:.3f}"
    return Threshold(float(np.sort(scores)[rank - 1]), n, budget, promised, float(np.median(scores)), note)


def excess_of(score: float, threshold: Threshold) -> float:
    """Return how far `score` lies above the threshold, in units of the distance from a typical OK image to it.

    This makes scores of models with different scales comparable.

    Args:
        score: Raw image score.
        threshold: A threshold with a value.

    Returns:
        0 at the threshold, -1 at the median of OK images, at most MAX_EXCESS.
    """
    above = score - (threshold.value or 0.0)
    unit = (threshold.value or 0.0) - (threshold.typical or 0.0)
    if unit <= 0:  # all held-back images have the same score
        return MAX_EXCESS if above > 0 else 0.0
    return min(above / unit, MAX_EXCESS)


def false_alarm_interval(n: int, rank: int) -> tuple[float, float]:
    """Return the middle 95 % of Beta(n + 1 - rank, rank), the false-alarm rate at the `rank`-th of n scores."""
    spread = stats.beta(n + 1 - rank, rank)
    return float(spread.ppf((1 - LEVEL) / 2)), float(spread.ppf((1 + LEVEL) / 2))
