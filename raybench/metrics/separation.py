"""How certain an image AUROC is: a confidence distribution that holds near 1 and for few images.

Resampling alone fails where it matters most: every resample of a perfect ranking is perfect, and a single NG image is
never varied. The variance of an AUROC that Newcombe (2006, *Statistics in Medicine* 25, method 5) derives from the two
numbers of images does not vanish there, but is too large for most rankings that are nearly perfect. Where resampling
finds more variance, as with groups of images, ties or outliers, Newcombe's is multiplied up to it. Where resampling
finds less, the more errors the ranking has, the more resampling counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import special

from raybench.metrics.intervals import LEVEL, NORMAL_QUANTILE

Floats = npt.NDArray[np.float64]
MODEL_ERRORS = 2
"""Independent errors of a ranking that Newcombe's variance is worth, where resampling finds less."""
_LEAST_ODDS = 1e-6  # log-odds of 0 and 1 are those of this distance from them
_LEAST_VARIANCE = 1e-10
_ENDS = np.array([-NORMAL_QUANTILE, NORMAL_QUANTILE])
_ROUNDING = 1e-9  # sums of shares may miss 1 by rounding
_EDGE = 1 - np.geomspace(1e-9, 0.02, 60)[::-1]
_GRID: Floats = np.concatenate([[0.0], 1 - _EDGE[::-1], np.linspace(0.02, 0.98, 481)[1:-1], _EDGE, [1.0]])


def auroc_variance(auroc: Floats, ok: float, ng: float) -> Floats:
    """Return the variance of an AUROC measured on so many OK and NG images (Newcombe 2006, method 5)."""
    mean = (ok + ng) / 2 - 1
    variance: Floats = auroc * (1 - auroc) * (1 + mean * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))) / (ok * ng)
    return variance


def share_variance(share: Floats, n: float) -> Floats:
    """Return the variance of a share measured on n images."""
    variance: Floats = share * (1 - share) / n
    return variance


def confidence_draws(
    value: float,
    resampled: Floats,
    images: tuple[int, ...],
    groups: tuple[int, ...],
    noise: Floats,
    variance: Callable[..., Floats] = auroc_variance,
) -> Floats:
    """Return draws from the confidence distribution of an AUROC, or of a share of images.

    They keep the order of the resampled values, so draws of several models on the same resamples stay dependent as the
    models are. Resampling says nothing of how models agree on a class of one group, which it never varies, and a little
    where groups are few: of the variance that it does not find, one part in as many as there are groups is `noise`.

    Args:
        value: AUROC or share on all images.
        resampled: (B,) AUROC or share of each resample.
        images: Numbers of OK and NG images of an AUROC; the number of images of a share.
        groups: Numbers of their groups.
        noise: (B,) standard normal, of this model alone.
        variance: `auroc_variance` or `share_variance`.
    """
    inflation, counts = _conditions(value, resampled, images, groups, variance)
    found = float(resampled.var())
    known = min(1.0, found / (inflation * _model_variance(value, counts, variance)))
    share = 1 - (1 - known) / min(groups) if found > _LEAST_VARIANCE else 0.0
    _, place, ties = np.unique(resampled, return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2  # equal values share their mean rank
    ordered = special.ndtri((ranks[place] - 0.5) / len(resampled))
    return _solve(value, np.sqrt(share) * ordered + np.sqrt(1 - share) * noise, inflation, counts, variance)


def auroc_interval(
    value: float, resampled: Floats, images: tuple[int, int], groups: tuple[int, int]
) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC; the arguments are those of `confidence_draws`."""
    conditions = _conditions(value, resampled, images, groups, auroc_variance)
    low, high = _solve(value, _ENDS, *conditions, auroc_variance)
    return float(low), float(high)


def ranking_interval(value: float, resampled: Floats, n: int) -> tuple[float, float]:
    """Return the 95 % interval of another metric of a ranking, from the spread of its log-odds.

    Percentiles of average precision and of the highest F1, which are biased upwards, lie too high (Boyd, Eng and Page
    2013, *Area Under the Precision-Recall Curve*). Resamples of n groups have (n - 1) / n of the variance. Those of
    a single group, or of scores that are all equal, tell nothing; nor do those of a perfect ranking, whose interval is
    that of n hits among n.

    Args:
        value: Metric on all images.
        resampled: (B,) metric of each resample.
        n: Number of groups of the smaller class.
    """
    if n == 1 or resampled.std() < _ROUNDING < value < 1 - _ROUNDING:
        return 0.0, 1.0
    odds = special.logit(np.clip([value, *resampled], _LEAST_ODDS, 1 - _LEAST_ODDS))
    low, high = special.expit(odds[0] + _ENDS * odds[1:].std() * np.sqrt(n / (n - 1)))
    if value > 1 - _ROUNDING:
        low = min(low, ((1 - LEVEL) / 2) ** (1 / n))
    return min(float(low), value), max(float(high), value)


def _conditions(
    value: float,
    resampled: Floats,
    images: tuple[int, ...],
    groups: tuple[int, ...],
    variance: Callable[..., Floats],
) -> tuple[float, tuple[int, ...]]:
    """Return the factor on the variance, and the numbers of images that it is based on."""
    found = float(resampled.var())
    if found <= _LEAST_VARIANCE:
        return 1.0, groups  # nothing is known of the dependence within groups: each counts as one image
    factor = found / _model_variance(value, images, variance)
    if factor < 1:
        # a share that varies as one of so many errors does, and one error does not tell how errors vary
        errors = min(max(0.0, min(value, 1 - value) ** 2 / found - 1), min(groups) - 1)
        factor = (MODEL_ERRORS + errors * factor) / (MODEL_ERRORS + errors)
    return factor, images


def _model_variance(value: float, counts: tuple[int, ...], variance: Callable[..., Floats]) -> float:
    inside = min(max(value, 0.5 / max(counts)), 1 - 0.5 / max(counts))
    return float(variance(np.array(inside), *counts))


def _solve(
    value: float, normal: Floats, inflation: float, counts: tuple[int, ...], variance: Callable[..., Floats]
) -> Floats:
    """Return the values from which `value` lies `-normal` standard deviations away, as in Wilson's interval."""
    deviation = np.sqrt(inflation * variance(_GRID[1:-1], *counts))
    scores = np.concatenate([[-np.inf], (_GRID[1:-1] - value) / deviation, [np.inf]])
    if value > 1 - _ROUNDING:
        scores[-1] = 0.0
    if value < _ROUNDING:
        scores[0] = 0.0
    finite = np.clip(np.maximum.accumulate(scores), -1e9, 1e9)
    solved: Floats = np.interp(normal, finite, _GRID)
    return solved
