"""95 % intervals: of shares and their changes, and of any metric by resampling images.

Images are resampled by weights instead of counts (the Bayesian bootstrap, Rubin 1981): no image is ever left out, and
whole groups of images share a weight. The concentration of the weights is chosen so that the spread of a mean is that
of Student's interval, whereas plain resampling of n images is too narrow by sqrt((n - 1) / n) and by the normal
distribution's narrower tails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats takes each worker most of a second to import

from raybench.metrics.numbers import Estimate

LEVEL = 0.95
RESAMPLES = 2000
NORMAL_QUANTILE = float(special.ndtri((1 + LEVEL) / 2))
_CELLS = 1_000_000  # numbers in a block of resamples; bounds memory
_ODDS = (1e-4, 1 - 1e-4)  # odds of numbers beyond are those at the end, and have no spread
_LEAST_CONCENTRATION = 0.05  # for two or three groups, which no finite spread describes

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """Return the exact interval of the share hits / n (Clopper and Pearson 1934). Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("no share of 0 images has an interval")
    return _beta_interval(hits, n)


def _beta_interval(hits: float, n: float) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low = float(special.betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(special.betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def share_interval(hits: npt.NDArray[np.bool_], groups: Indices) -> tuple[float, float]:
    """Return the interval of a share of images that belong to groups.

    Clopper and Pearson's interval at the number of independent images that would have the variance found between groups
    (Korn and Graubard 1998). Where every image is a group of its own it is theirs.

    Args:
        hits: (n,) bool, not empty.
        groups: (n,) number of each image's group.
    """
    n, count = len(hits), int(hits.sum())
    sizes = np.bincount(groups)
    sizes, sums = sizes[sizes > 0], np.bincount(groups, hits)[sizes > 0]
    if len(sizes) == n:
        return clopper_pearson(count, n)
    share, number = count / n, len(sizes)
    effective = float(number)
    if 0 < count < n and number > 1:
        variance = number / (number - 1) * ((sums - share * sizes) ** 2).sum() / n**2
        student = (NORMAL_QUANTILE / student_quantile(number - 1)) ** 2
        effective = min(max(student * share * (1 - share) / max(variance, 1e-12), 1.0), float(n))
    return _beta_interval(share * effective, effective)


def student_quantile(degrees: int) -> float:
    """Return the quantile of Student's distribution at the upper end of the interval."""
    return float(special.stdtrit(degrees, (1 + LEVEL) / 2))


def group_numbers(names: npt.NDArray[np.str_]) -> Indices:
    """Number (n,) names of groups from 0, in order of their names."""
    numbers: Indices = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return numbers


def resamples(
    groups: Sequence[Indices], count: int = RESAMPLES, seed: int = 0, cells: int = 0
) -> Iterator[tuple[Floats, ...]]:
    """Draw resamples of several independent strata, in blocks.

    Args:
        groups: Of each stratum, the number of each member's group (n,), from 0 without gaps.
        count: Number of resamples.
        seed: Seed of the random generator.
        cells: Numbers that the caller needs per resample; keeps blocks small.

    Yields:
        For each stratum, the weight of each member: (B, n) float64, with sum n.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(*(len(members) for members in groups), cells, 1))
    for start in range(0, count, block):
        rows = min(block, count - start)
        yield tuple(_weights(rng, rows, members) for members in groups)


def _weights(rng: np.random.Generator, rows: int, groups: Indices) -> Floats:
    number = int(groups.max()) + 1 if len(groups) else 0
    if number < 2:
        return np.ones((rows, len(groups)))
    drawn = rng.standard_gamma(_concentration(number), (rows, number)) + np.finfo(np.float64).tiny
    weights = drawn[:, groups]
    scaled: Floats = weights * (len(groups) / weights.sum(axis=1, keepdims=True))
    return scaled


def _concentration(number: int) -> float:
    """Return the concentration of Dirichlet weights with which a mean over groups has the spread of Student's
    interval."""
    widening = student_quantile(number - 1) / NORMAL_QUANTILE
    return float(max(((number - 1) / widening**2 - 1) / number, _LEAST_CONCENTRATION))


def spread(draws: Floats) -> float:
    """Return the standard deviation of (B,) draws by the quantiles that a normal distribution has at ±1.

    Tails of draws do not count: trainings of few seeds need not have a finite standard deviation, and confidence
    distributions near 1 reach far down.
    """
    low, high = np.quantile(draws, special.ndtr([-1.0, 1.0]))
    return float(high - low) / 2


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """Return the ends of the middle 95 % of (B,) resampled values."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def fraction_interval(value: float, offsets: Floats, *, reflected: bool = False) -> tuple[float, float]:
    """Return the interval of a number from 0 to 1, from how far its resamples (B,) lie from it.

    At each end it is the wider of two: the percentiles of the resamples, and an interval that is symmetric in log-odds
    with their spread. Near 0 and 1 the percentiles alone are too narrow on the side of the middle: samples without hard
    images resample into samples without hard images.

    Args:
        value: The number.
        offsets: How far its resamples lie from it, (B,).
        reflected: Whether percentiles count on either side of the number. Where few images make a number too large,
            resamples are too large once more, and their percentiles lie twice too high.
    """
    low, high = percentile_interval(offsets)
    if reflected:
        low, high = min(low, -high), max(high, -low)
    centre, drawn = special.logit(np.clip(value, *_ODDS)), special.logit(np.clip(value + offsets, *_ODDS))
    below, above = np.quantile(drawn, special.ndtr([-1.0, 1.0]))
    reach = NORMAL_QUANTILE * (above - below) / 2
    ends = special.expit([centre - reach, centre + reach])
    return max(0.0, min(value + low, float(ends[0]))), min(1.0, max(value + high, float(ends[1])))


def bootstrap(
    groups: Sequence[Indices],
    statistic: Callable[..., Floats],
    seed: int = 0,
    count: int = RESAMPLES,
    cells: int = 0,
) -> Floats:
    """Compute a statistic of every resample.

    Args:
        groups: Of each stratum, the number of each member's group (n,).
        statistic: Called with the weights (B, n) float64 of each stratum; returns (B,) or (M, B).
        seed: Seed of the random generator.
        count: Number of resamples.
        cells: Numbers that `statistic` needs per resample; keeps blocks small.

    Returns:
        (count,) or (M, count) float64.
    """
    parts = [statistic(*weights) for weights in resamples(groups, count, seed, cells)]
    return np.concatenate(parts, axis=-1)


def share_change(change: Floats, groups: Indices, name: str) -> Estimate:
    """Estimate the mean change over images that are drawn in groups.

    Two intervals are taken together. Resampling whole groups knows how large the change is, but is sure of its sign as
    soon as all images that changed did so in one direction, be it a single one. The sign is tested by Clopper and
    Pearson's interval of the share of images that rose among those that changed, as in McNemar's exact test.

    Args:
        change: (n,) float64: 1 where only the later detector flags the image, -1 where only the earlier one does, 0
            where both agree. Means over seeds lie between.
        groups: (n,) number of each image's group, from 0 without gaps.
        name: Name of the images, for the reason of an undefined change.

    Returns:
        The change with its 95 % interval; `n` is the number of images.
    """
    n = len(change)
    if n == 0:
        return Estimate(None, reason=f"no {name} images in common")
    value, moved = float(change.mean()), change != 0
    if not moved.any():
        most = clopper_pearson(0, len(np.unique(groups)))[1]
        return Estimate(value, -most, most, n)
    low, high = percentile_interval(bootstrap([groups], lambda weights: (weights * change).mean(axis=1)))
    renumbered = np.unique(groups[moved], return_inverse=True)[1].astype(np.int64)
    fewest, most = share_interval(change[moved] > 0, renumbered)
    size = float(np.abs(change).mean())
    return Estimate(value, max(-1.0, min(low, size * (2 * fewest - 1))), min(1.0, max(high, size * (2 * most - 1))), n)
