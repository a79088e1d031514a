"""Ranking metrics from counts in order of falling score. One set of formulas for pixels, images and their resamples.

Arrays are (..., K): K buckets, the highest scores first; a bucket holds equal scores, or scores too close to tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
"""(..., K) float64."""


def auroc(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """Area under the ROC curve; ties count one half (Mann-Whitney). (...,) float64."""
    true, false = _shares(anomalous), _shares(normal)
    return _area(false, true)


def average_precision(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """Sum of precision over steps of recall, without interpolation (scikit-learn's definition). (...,) float64."""
    hits, alarms = np.cumsum(anomalous, -1), np.cumsum(anomalous + normal, -1)
    precision = np.divide(hits, alarms, out=np.zeros_like(hits), where=alarms > 0)
    found: npt.NDArray[np.float64] = (precision * anomalous).sum(-1) / anomalous.sum(-1)
    return found


def au_pro(normal: Counts, regions: Counts, limit: float) -> npt.NDArray[np.float64]:
    """Area under per-region overlap against false-positive rate up to `limit`, divided by it. (...,) float64.

    Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.2. regions: each region's pixels weighted by
    1 / its area. The curve is linear between buckets, and cut at the limit.
    """
    overlap, false = _shares(regions), _shares(normal)
    before, step = false[..., :-1], np.diff(false, axis=-1)
    inside = np.clip(limit - before, 0, step)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)
    rise = np.diff(overlap, axis=-1)
    area = (inside * (overlap[..., :-1] + share * rise / 2)).sum(-1)
    found: npt.NDArray[np.float64] = area / limit
    return found


def _shares(counts: Counts) -> Counts:
    """Cumulated and normalised, from 0 to 1: (..., K + 1)."""
    summed = np.cumsum(counts, -1)
    start = np.zeros((*summed.shape[:-1], 1))
    return np.concatenate([start, summed / summed[..., -1:]], -1)


def _area(x: Counts, y: Counts) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = (np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(-1)
    return found
