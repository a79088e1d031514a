"""How certain an image AUROC is: a confidence distribution that holds near 1 and for few images.

Resampling alone fails where it matters most: every resample of a perfect ranking is perfect, and a single NG image is
never varied. The variance of an AUROC that Newcombe (2006, *Statistics in Medicine* 25, method 5) derives from the two
numbers of images does not vanish there. The wider of the two counts: where resampling finds more variance, as with
groups of images, ties or outliers, Newcombe's is multiplied up to it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.metrics.intervals import NORMAL_QUANTILE

Floats = npt.NDArray[np.float64]
_LEAST_VARIANCE = 1e-10
_ROUNDING = 1e-9  # sums of shares may miss 1 by rounding
_EDGE = 1 - np.geomspace(1e-9, 0.02, 60)[::-1]
_GRID: Floats = np.concatenate([[0.0], 1 - _EDGE[::-1], np.linspace(0.02, 0.98, 481)[1:-1], _EDGE, [1.0]])


def auroc_variance(auroc: Floats, ok: float, ng: float) -> Floats:
    """Return the variance of an AUROC measured on so many OK and NG images (Newcombe 2006, method 5)."""
    mean = (ok + ng) / 2 - 1
    variance: Floats = auroc * (1 - auroc) * (1 + mean * ((1 - auroc) / (2 - auroc) + auroc / (1 + auroc))) / (ok * ng)
    return variance


def confidence_draws(
    value: float, resampled: Floats, images: tuple[int, int], groups: tuple[int, int], noise: Floats
) -> Floats:
    """Return draws from the confidence distribution of an AUROC.

    They keep the order of the resampled values, so draws of several models on the same resamples stay dependent as the
    models are. What resampling cannot know of the variance comes from `noise`.

    Args:
        value: AUROC on all images.
        resampled: (B,) AUROC of each resample.
        images: Numbers of OK and NG images.
        groups: Numbers of their groups.
        noise: (B,) standard normal, of this model alone.
    """
    inflation, counts = _conditions(value, resampled, images, groups)
    known = resampled.var() / (inflation * _model_variance(value, counts))
    share = min(1.0, float(known)) if resampled.var() > _LEAST_VARIANCE else 0.0
    ordered = stats.norm.ppf((stats.rankdata(resampled) - 0.5) / len(resampled))
    return _solve(value, np.sqrt(share) * ordered + np.sqrt(1 - share) * noise, inflation, counts)


def auroc_interval(
    value: float, resampled: Floats, images: tuple[int, int], groups: tuple[int, int]
) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC; the arguments are those of `confidence_draws`."""
    ends = np.array([-NORMAL_QUANTILE, NORMAL_QUANTILE])
    low, high = _solve(value, ends, *_conditions(value, resampled, images, groups))
    return float(low), float(high)


def _conditions(
    value: float, resampled: Floats, images: tuple[int, int], groups: tuple[int, int]
) -> tuple[float, tuple[int, int]]:
    """Return the factor on Newcombe's variance, and the numbers of images that it is based on."""
    variance = float(resampled.var())
    if variance <= _LEAST_VARIANCE:
        return 1.0, groups  # nothing is known of the dependence within groups: each counts as one image
    largest = 4 * images[0] * images[1] / (groups[0] * groups[1])
    return min(max(1.0, variance / _model_variance(value, images)), largest), images


def _model_variance(value: float, counts: tuple[int, int]) -> float:
    inside = np.array(min(max(value, 0.5 / max(counts)), 1 - 0.5 / max(counts)))
    return float(auroc_variance(inside, *counts))


def _solve(value: float, normal: Floats, inflation: float, counts: tuple[int, int]) -> Floats:
    """Return the AUROCs from which `value` lies `-normal` standard deviations away, as in Wilson's interval."""
    deviation = np.sqrt(inflation * auroc_variance(_GRID[1:-1], *counts))
    scores = np.concatenate([[-np.inf], (_GRID[1:-1] - value) / deviation, [np.inf]])
    if value > 1 - _ROUNDING:
        scores[-1] = 0.0
    if value < _ROUNDING:
        scores[0] = 0.0
    finite = np.clip(np.maximum.accumulate(scores), -1e9, 1e9)
    solved: Floats = np.interp(normal, finite, _GRID)
    return solved
