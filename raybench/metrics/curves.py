"""Ranking metrics from counts in order of falling score, for pixels, images and their bootstrap resamples alike.

Arrays have the shape (..., K): K buckets, the highest scores first. A bucket holds scores that are equal or almost so.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
"""(..., K) float64."""
Flags = npt.NDArray[np.bool_]


def auroc(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """Return the area under the ROC curve, (...,) float64; ties count one half (Mann-Whitney)."""
    true, false = shares(anomalous), shares(normal)
    return _area(false, true)


def average_precision(normal: Counts, anomalous: Counts, tied: Flags | bool = True) -> npt.NDArray[np.float64]:
    """Return the sum of precision over steps of recall, without interpolation (scikit-learn's definition).

    Args:
        normal: (..., K) counts of normal items.
        anomalous: (..., K) counts of anomalous items.
        tied: (K,) bool, True for buckets whose scores are all equal. In the other buckets normal and anomalous items
            are assumed to be evenly mixed, and precision is the mean of that at the first and the last anomalous item.

    Returns:
        (...,) float64.
    """
    hits, alarms = np.cumsum(anomalous, -1), np.cumsum(anomalous + normal, -1)
    precision = _ratio(hits, alarms)
    if not np.all(tied):
        between = _ratio(normal, 2 * anomalous)  # normal items before the first and after the last anomalous one
        first = _ratio(hits - anomalous + 1, alarms - anomalous - normal + 1 + between)
        last = _ratio(hits, alarms - between)
        precision = np.where(tied, precision, (first + last) / 2)
    average: npt.NDArray[np.float64] = (precision * anomalous).sum(-1) / anomalous.sum(-1)
    return average


def f1_max(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """Return the highest F1 score (harmonic mean of precision and recall) of any threshold, (...,) float64."""
    hits, alarms = np.cumsum(anomalous, -1), np.cumsum(anomalous + normal, -1)
    highest: npt.NDArray[np.float64] = (2 * hits / (alarms + anomalous.sum(-1, keepdims=True))).max(-1)
    return highest


def true_rate(normal: Counts, anomalous: Counts, false_rate: float) -> npt.NDArray[np.float64]:
    """Return the share of anomalous items above the threshold that this share of normal items exceeds, (...,) float64.

    The ROC curve is interpolated linearly, so the threshold may lie within a bucket.
    """
    true, false = shares(anomalous), shares(normal)
    after = np.minimum((false <= false_rate).sum(-1, keepdims=True), false.shape[-1] - 1)
    x1, y1 = (np.take_along_axis(part, after, -1)[..., 0] for part in (false, true))
    x0, y0 = (np.take_along_axis(part, after - 1, -1)[..., 0] for part in (false, true))
    part = np.clip((false_rate - x0) / np.maximum(x1 - x0, 1e-12), 0, 1)
    rate: npt.NDArray[np.float64] = y0 + part * (y1 - y0)
    return rate


def log_area(false: Counts, true: Counts, low: float, high: float) -> float:
    """Return the mean of `true` over log(false) between `low` and `high`.

    The curve is interpolated linearly in `false` at the two ends, and in its logarithm between.

    Args:
        false: (K,) false-positive rates, not decreasing.
        true: (K,) true-positive rates, not decreasing.
        low: Lower limit of the false-positive rate.
        high: Upper limit of the false-positive rate.
    """
    inside = (false > low) & (false < high)
    x = np.concatenate([[low], false[inside], [high]])
    y = np.concatenate([[np.interp(low, false, true)], true[inside], [np.interp(high, false, true)]])
    return float(np.trapezoid(y, np.log(x)) / np.log(high / low))


def au_pro(normal: Counts, regions: Counts, limit: float) -> npt.NDArray[np.float64]:
    """Return the area under per-region overlap against false-positive rate, up to a limit and divided by it.

    Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.2. The curve is linear between buckets and is
    cut at the limit.

    Args:
        normal: (..., K) counts of normal pixels.
        regions: (..., K) sums over anomalous pixels of 1 / area of the pixel's region.
        limit: Upper limit of the false-positive rate.

    Returns:
        (...,) float64.
    """
    overlap, false = shares(regions), shares(normal)
    before, step = false[..., :-1], np.diff(false, axis=-1)
    inside = np.clip(limit - before, 0, step)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)
    rise = np.diff(overlap, axis=-1)
    area: npt.NDArray[np.float64] = (inside * (overlap[..., :-1] + share * rise / 2)).sum(-1) / limit
    return area


def _ratio(numerator: Counts, denominator: Counts) -> Counts:
    """Divide; the result is 0 where the denominator is 0."""
    zeros = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


def shares(counts: Counts) -> Counts:
    """Return the cumulative sums, normalised to run from 0 to 1: (..., K + 1)."""
    summed = np.cumsum(counts, -1)
    start = np.zeros((*summed.shape[:-1], 1))
    return np.concatenate([start, summed / summed[..., -1:]], -1)


def _area(x: Counts, y: Counts) -> npt.NDArray[np.float64]:
    area: npt.NDArray[np.float64] = (np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(-1)
    return area
