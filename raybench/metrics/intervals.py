"""95 % intervals: Clopper-Pearson for shares, and a bootstrap over images for ranking metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
_CELLS = 1_000_000  # numbers in a block of resamples; bounds memory

Floats = npt.NDArray[np.float64]


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """Return the exact interval of the share hits / n (Clopper and Pearson 1934). Raises ValueError for n = 0."""
    interval = stats.binomtest(hits, n).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)


def resamples(sizes: tuple[int, ...], count: int, seed: int, cells: int = 0) -> Iterator[tuple[Floats, ...]]:
    """Draw bootstrap resamples, stratified by group, in blocks.

    Args:
        sizes: Number of members of each group.
        count: Number of resamples.
        seed: Seed of the random generator.
        cells: Numbers that the caller needs per resample; keeps blocks small.

    Yields:
        For each group, how often each member is drawn: (B, n) float64.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(*sizes, cells, 1))
    for start in range(0, count, block):
        rows = min(block, count - start)
        yield tuple(_drawn(rng, rows, size) for size in sizes)


def _drawn(rng: np.random.Generator, rows: int, size: int) -> Floats:
    """Return how often each of `size` members is drawn in `size` draws: (rows, size) float64."""
    draws = (
        rng.integers(0, max(size, 1), (rows, size), np.int32) + np.arange(rows, dtype=np.int32)[:, np.newaxis] * size
    )
    return np.bincount(draws.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """Return the ends of the middle 95 % of (B,) resampled values."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    sizes: tuple[int, ...], statistic: Callable[..., Floats], seed: int, count: int = RESAMPLES, cells: int = 0
) -> Floats:
    """Compute a statistic of every bootstrap resample.

    Args:
        sizes: Number of members of each group.
        statistic: Called with the weights (B, n) float64 of each group; returns (B,) or (M, B).
        seed: Seed of the random generator.
        count: Number of resamples.
        cells: Numbers that `statistic` needs per resample; keeps blocks small.

    Returns:
        (count,) or (M, count) float64.
    """
    parts = [statistic(*weights) for weights in resamples(sizes, count, seed, cells)]
    return np.concatenate(parts, axis=-1)
