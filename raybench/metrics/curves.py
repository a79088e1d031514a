"""Ranking metrics from counts in order of falling score. One set of formulas for pixels, images and their resamples.

Arrays are (..., K): K buckets, the highest scores first; a bucket holds equal scores, or scores too close to tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
"""(..., K) float64."""
Flags = npt.NDArray[np.bool_]


def auroc(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """Area under the ROC curve; ties count one half (Mann-Whitney). (...,) float64."""
    true, false = shares(anomalous), shares(normal)
    return _area(false, true)


def average_precision(normal: Counts, anomalous: Counts, tied: Flags | bool = True) -> npt.NDArray[np.float64]:
    """Sum of precision over steps of recall, without interpolation (scikit-learn's definition). (...,) float64.

    tied: whether the scores in a bucket are equal. Where they are only close, normal and anomalous ones are taken to
    lie evenly between each other, the mean precision being that of the first and the last anomalous one.
    """
    hits, alarms = np.cumsum(anomalous, -1), np.cumsum(anomalous + normal, -1)
    precision = _ratio(hits, alarms)
    if not np.all(tied):
        between = _ratio(normal, 2 * anomalous)  # normal ones before the first, and behind the last
        first = _ratio(hits - anomalous + 1, alarms - anomalous - normal + 1 + between)
        last = _ratio(hits, alarms - between)
        precision = np.where(tied, precision, (first + last) / 2)
    found: npt.NDArray[np.float64] = (precision * anomalous).sum(-1) / anomalous.sum(-1)
    return found


def f1_max(normal: Counts, anomalous: Counts) -> npt.NDArray[np.float64]:
    """The highest F1 score (harmonic mean of precision and recall) of any threshold. (...,) float64."""
    hits, alarms = np.cumsum(anomalous, -1), np.cumsum(anomalous + normal, -1)
    found: npt.NDArray[np.float64] = (2 * hits / (alarms + anomalous.sum(-1, keepdims=True))).max(-1)
    return found


def log_area(false: Counts, true: Counts, low: float, high: float) -> float:
    """Mean of `true` over log(false) between `low` and `high`; both (K,), not falling. The curve is linear in `false`
    at the two ends and in its logarithm between."""
    inside = (false > low) & (false < high)
    x = np.concatenate([[low], false[inside], [high]])
    y = np.concatenate([[np.interp(low, false, true)], true[inside], [np.interp(high, false, true)]])
    return float(np.trapezoid(y, np.log(x)) / np.log(high / low))


def au_pro(normal: Counts, regions: Counts, limit: float) -> npt.NDArray[np.float64]:
    """Area under per-region overlap against false-positive rate up to `limit`, divided by it. (...,) float64.

    Bergmann et al. 2021, The MVTec Anomaly Detection Dataset, section 5.2. regions: each region's pixels weighted by
    1 / its area. The curve is linear between buckets, and cut at the limit.
    """
    overlap, false = shares(regions), shares(normal)
    before, step = false[..., :-1], np.diff(false, axis=-1)
    inside = np.clip(limit - before, 0, step)
    share = np.divide(inside, step, out=np.zeros_like(step), where=step > 0)
    rise = np.diff(overlap, axis=-1)
    area = (inside * (overlap[..., :-1] + share * rise / 2)).sum(-1)
    found: npt.NDArray[np.float64] = area / limit
    return found


def _ratio(above: Counts, below: Counts) -> Counts:
    """0 where `below` is."""
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def shares(counts: Counts) -> Counts:
    """Cumulated and normalised, from 0 to 1: (..., K + 1)."""
    summed = np.cumsum(counts, -1)
    start = np.zeros((*summed.shape[:-1], 1))
    return np.concatenate([start, summed / summed[..., -1:]], -1)


def _area(x: Counts, y: Counts) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = (np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(-1)
    return found
