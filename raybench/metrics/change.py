"""Sequential tests of a line that is looked at again and again: has it changed, when, and does its threshold hold?

Batches of images arrive one by one, and anybody may look after each. Both tests are e-detectors in CUSUM form (Shin,
Ramdas and Rinaldo 2022, *E-detectors: a nonparametric framework for sequential change detection*). To each possible
start of a change belongs a martingale that begins at 1; while nothing has changed, it ever reaches c with a probability
of at most 1 / c (Ville 1939). So the highest over all starts reaches c within T batches with a probability of at most
T / c, whatever is done upon looking. Evidence is the natural logarithm of that highest one.

Both count flags. With m exchangeable reference values, a new value exceeds the k-th largest with a rate that is itself
random, Beta(k, m + 1 - k) (Wilks 1941, *Determination of sample sizes for setting tolerance limits*), so the number of
flags is beta-binomial for any distribution of the values. The martingale is the likelihood of the flags under a higher
rate over that under Beta(k, m + 1 - k).

*Change of a value.* A batch has one value, such as the median brightness, and the batches before a start are the
reference. Images of a batch may be alike in any way and days may differ, if the batches of a stable line are
exchangeable. One odd batch is little evidence: at most about the number of batches before it.

*Share above the threshold.* The reference are the held-back images, as for `exchangeability`. This assumes of new
images what the threshold assumes of them: that they are like the held-back ones and independent of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from raybench.metrics.numbers import Threshold

FEWEST_BEFORE = 5
"""Batches before a change, at least."""
LIKELY = math.log(20.0)
"""Starts whose evidence is less than the highest by so much or less are likely, too."""
_BEYOND = ((0.0, 0.9), (0.2, 0.75))
# Of a change: this share of the batches before is as extreme as a new one (0: none is), for this share of the new ones.
_DIVISORS = (2.0, 8.0, 32.0)  # of a threshold: by how much smaller a parameter of the beta distribution may be

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChangeEvidence:
    """Evidence of a lasting change, after each of T batches."""

    evidence: Floats
    """(T,) float64, natural logarithm of the e-detector; 0 where there is none."""
    starts: Indices
    """(T,) int64, index of the batch at which the change most likely began."""
    spans: Indices
    """(T, 2) int64, the first and the last likely start."""


def change_evidence(values: npt.ArrayLike) -> ChangeEvidence:
    """Compute the evidence that a value has become higher, or lower, and has stayed so.

    Args:
        values: (T,) float64, one of each batch, in their order.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    by_start = np.full((count, count), -np.inf)  # start, latest batch
    for start in range(FEWEST_BEFORE, count):
        parts = []
        for sign in (1, -1):
            before, since = np.sort(sign * values[:start])[::-1], sign * values[start:]
            for share, expected in _BEYOND:
                rank = max(1, math.ceil(share * start))
                hits = np.cumsum(since > before[rank - 1]).astype(np.float64)
                misses, less = np.arange(1.0, len(since) + 1) - hits, rank * (1 / expected - 1)
                parts.append(_log_ratio(misses, hits, start + 1.0 - rank, float(rank), less))
        by_start[start, start:] = special.logsumexp(parts, axis=0) - math.log(len(parts))
    return _highest(by_start)


@dataclass(frozen=True, eq=False)
class ShareEvidence:
    """Evidence that more, or fewer, images are above a threshold than it promises."""

    too_many: ChangeEvidence
    too_few: ChangeEvidence


def share_evidence(
    flagged: npt.ArrayLike, images: npt.ArrayLike, threshold: Threshold, defects: float = 0.0
) -> ShareEvidence:
    """Compute the evidence that the share above a threshold is not what it promises, since some batch.

    Args:
        flagged: (T,) int64, images of each batch that are above the threshold.
        images: (T,) int64, images of each batch.
        threshold: A threshold that promises less than 1.
        defects: Share of the images that is NG, at most, and therefore above the threshold, too.
    """
    flags, sizes = np.asarray(flagged, np.float64), np.asarray(images, np.float64)
    rank = max(1, round(threshold.promised * (threshold.groups + 1)))
    above, below = float(rank), float(threshold.groups + 1 - rank)
    many, few = np.full((2, len(flags), len(flags)), -np.inf)
    for start in range(len(flags)):
        hits, count = np.cumsum(flags[start:]), np.cumsum(sizes[start:])
        more, less = _with_defects(above, below, defects)
        many[start, start:] = log_evidence(count - hits, hits, less, more)
        few[start, start:] = log_evidence(hits, count - hits, above, below)
    return ShareEvidence(_highest(many), _highest(few))


def _highest(by_start: Floats) -> ChangeEvidence:
    """Take the highest evidence over starts, of (starts, batches)."""
    if not by_start.size:
        return ChangeEvidence(np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
    starts, highest = by_start.argmax(axis=0), by_start.max(axis=0)
    likely = by_start >= np.maximum(highest - LIKELY, -1e300)
    spans = np.stack([likely.argmax(axis=0), len(by_start) - 1 - likely[::-1].argmax(axis=0)], axis=1)
    return ChangeEvidence(np.maximum(highest, 0.0), starts, spans)


def log_evidence(rare: Floats, common: Floats, a: float, b: float) -> Floats:
    """Return the logarithm of the evidence that a share has risen, whose mean is one where it has not."""
    ratios = [_log_ratio(rare, common, a, b, a / divisor) for divisor in _DIVISORS]
    evidence: Floats = special.logsumexp(ratios, axis=0) - math.log(len(ratios))
    return evidence


def _log_ratio(rare: Floats, common: Floats, a: float, b: float, less: float) -> Floats:
    """Return the log likelihood ratio of counts of two kinds, the share of the first being Beta(less, b) or Beta(a, b).

    less is below a. The ratio falls with each count of the first kind, so a limit holds all the more if that kind is
    more frequent than under Beta(a, b).
    """
    gamma, total = special.gammaln, rare + common
    counted: Floats = gamma(rare + less) - gamma(rare + a) + gamma(total + a + b) - gamma(total + less + b)
    ratio: Floats = counted + (gamma(a) - gamma(less) + gamma(less + b) - gamma(a + b))
    return ratio


def _with_defects(a: float, b: float, defects: float) -> tuple[float, float]:
    """Return the beta distribution with the mean and the variance of the share above, if a share is NG as well."""
    if not defects:
        return a, b
    mean = defects + (1 - defects) * a / (a + b)
    variance = (1 - defects) ** 2 * a * b / ((a + b) ** 2 * (a + b + 1))
    size = mean * (1 - mean) / variance - 1
    return mean * size, (1 - mean) * size
