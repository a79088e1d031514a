"""The image-score threshold from OK images alone: split conformal prediction (Vovk et al. 2005).

With n held-back OK scores, the threshold is the k-th smallest, k = ceil((n + 1)(1 - budget)); a new OK image of the
same process exceeds it with a probability of at most `budget`, whatever the distribution of the scores.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.metrics.intervals import LEVEL
from raybench.metrics.numbers import Threshold

MAX_EXCESS = 100.0
_ROUNDING = 1e-9  # (n + 1)(1 - budget) of an exact product may come out a hair above an integer


def conformal_threshold(scores: npt.NDArray[np.float64], budget: float) -> Threshold:
    """The threshold of (n,) held-back OK scores; flag what is above, not what is equal.

    With too few images for the budget it is the highest of them, and what that promises is said: 1 / (n + 1). `value`
    is None without any. Raises ValueError on scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("held-back scores must be finite")
    n = len(scores)
    if n == 0:
        return Threshold(None, 0, budget, 0.0, None, "no held-back OK images")
    rank = min(_rank(n, budget), n)
    promised = (n + 1 - rank) / (n + 1)
    low, high = far_interval(n, rank)
    note = f"on {n} held-back OK images; the rate it really has lies in {low:.3f}..{high:.3f}"
    if promised > budget + _ROUNDING:
        needed = math.ceil(1 / budget - _ROUNDING) - 1
        note += f"; a budget of {budget:g} needs at least {needed} images, these can promise {promised:.3f}"
    return Threshold(float(np.sort(scores)[rank - 1]), n, budget, promised, float(np.median(scores)), note)


def excess_of(score: float, threshold: Threshold) -> float:
    """How far `score` lies above the threshold, in units of how far the threshold lies above a typical OK image: scores
    of different models have different scales, this has one. At most MAX_EXCESS; of a threshold that has a value."""
    above = score - (threshold.value or 0.0)
    unit = (threshold.value or 0.0) - (threshold.typical or 0.0)
    if unit <= 0:  # all held-back images have one score: anything above it is far out
        return MAX_EXCESS if above > 0 else 0.0
    return min(above / unit, MAX_EXCESS)


def far_interval(n: int, rank: int) -> tuple[float, float]:
    """Where the false-alarm rate of the `rank`-th smallest of n scores lies with 95 %: Beta(n + 1 - rank, rank)."""
    spread = stats.beta(n + 1 - rank, rank)
    return float(spread.ppf((1 - LEVEL) / 2)), float(spread.ppf((1 + LEVEL) / 2))


def _rank(n: int, budget: float) -> int:
    return math.ceil((n + 1) * (1 - budget) - _ROUNDING)
