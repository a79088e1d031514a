"""Intervals at 95 %: Clopper-Pearson for shares, the bootstrap over images for everything that ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
_CELLS = 1_000_000  # of a block of resamples: bounds memory

Floats = npt.NDArray[np.float64]


def clopper_pearson(hits: int, n: int) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson 1934). Raises ValueError for n = 0."""
    found = stats.binomtest(hits, n).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def resamples(sizes: tuple[int, ...], count: int, seed: int, cells: int = 0) -> Iterator[tuple[Floats, ...]]:
    """Bootstrap weights in blocks: for each group of `sizes` how often each member is drawn, (B, n) float64.

    Groups are drawn separately (stratified). cells: what a caller needs per resample, to keep blocks small.
    """
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // max(*sizes, cells, 1))
    for start in range(0, count, block):
        rows = min(block, count - start)
        yield tuple(_drawn(rng, rows, size) for size in sizes)


def _drawn(rng: np.random.Generator, rows: int, size: int) -> Floats:
    """(rows, size): how often each of `size` members is drawn in `size` draws."""
    draws = (
        rng.integers(0, max(size, 1), (rows, size), np.int32) + np.arange(rows, dtype=np.int32)[:, np.newaxis] * size
    )
    return np.bincount(draws.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def percentile_interval(samples: Floats) -> tuple[float, float]:
    """The middle 95 % of (B,) resampled values."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    sizes: tuple[int, ...], statistic: Callable[..., Floats], seed: int, count: int = RESAMPLES, cells: int = 0
) -> Floats:
    """`statistic` of every resample: called with the weights (B, n) of each group, returns (B,) or (M, B)."""
    parts = [statistic(*weights) for weights in resamples(sizes, count, seed, cells)]
    return np.concatenate(parts, axis=-1)
