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
from raybench.results import Threshold

_ROUNDING = 1e-9  # (n + 1)(1 - budget) of an exact product may come out a hair above an integer


def conformal_threshold(scores: npt.NDArray[np.float64], budget: float) -> Threshold:
    """The threshold of (n,) held-back OK scores; flag what is above, not what is equal.

    `value` is None when n is too small for the budget. Raises ValueError on scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("held-back scores must be finite")
    n = len(scores)
    typical = float(np.median(scores)) if n else None
    rank = _rank(n, budget)
    if rank > n:
        needed = math.ceil(1 / budget - _ROUNDING) - 1
        note = f"{n} held-back OK images; a false-alarm budget of {budget:g} needs at least {needed}"
        return Threshold(None, n, budget, 0.0, typical, note)
    low, high = far_interval(n, budget)
    note = f"on {n} held-back OK images; the rate it really has lies in {low:.3f}..{high:.3f}"
    return Threshold(float(np.sort(scores)[rank - 1]), n, budget, (n + 1 - rank) / (n + 1), typical, note)


def far_interval(n: int, budget: float) -> tuple[float, float]:
    """Where the false-alarm rate of one threshold lies with 95 %: it is Beta(n + 1 - k, k) distributed."""
    rank = _rank(n, budget)
    spread = stats.beta(n + 1 - rank, rank)
    return float(spread.ppf((1 - LEVEL) / 2)), float(spread.ppf((1 + LEVEL) / 2))


def _rank(n: int, budget: float) -> int:
    return math.ceil((n + 1) * (1 - budget) - _ROUNDING)
