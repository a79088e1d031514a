"""A mergeable histogram of scores of any range: dyadic buckets over the bit pattern of float32.

A bucket is a run of 2^shift neighbouring float32 values. Only occupied buckets are kept. When there are more than
`CAP`, the shift is raised by one and pairs of neighbours are added up. The shift of a part never exceeds that of the
whole, so the result does not depend on how the data was split or on the order of merging. With fewer than `CAP`
distinct values it is exact; otherwise the error of AUROC and AU-PRO is about 1e-6 and that of AP about 3e-6. A sketch
with five columns takes at most 3.1 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

CAP = 65_536
TABLE = 2**18  # buckets of a table that is indexed by key instead of sorted; bounds memory
_SIGN = np.int32(-(2**31))
_LAST = np.uint32(2**32 - 1)

Keys = npt.NDArray[np.uint32]
Columns = npt.NDArray[np.int64]


def ordered_keys(values: npt.NDArray[np.float32]) -> Keys:
    """Map float32 values to uint32 keys of the same shape and order.

    The sign bit of positive floats is set, and all bits of negative floats are inverted. -0.0 becomes 0.0. Raises
    ValueError on NaN.
    """
    if values.size and np.isnan(values.max()):
        raise ValueError("NaN has no place in an order")
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    return (bits ^ ((bits >> np.int32(31)) | _SIGN)).view(np.uint32)


@dataclass(frozen=True)
class Histogram:
    """Counts of keys by occupied bucket."""

    shift: int
    """A bucket holds the keys with equal key >> shift."""
    low: Keys
    """(K,) uint32, ascending: the first key in each bucket."""
    high: Keys
    """(K,) uint32, ascending: the last key in each bucket."""
    counts: npt.NDArray[np.int64]
    """(K,) int64."""


def shift_for(keys: Keys, buckets: int) -> int:
    """Return the smallest shift at which the range of (N,) keys spans at most this number of buckets."""
    if len(keys) == 0:
        return 0
    first, last, shift = int(keys.min()), int(keys.max()), 0
    while (last >> shift) - (first >> shift) >= buckets:
        shift += 1
    return shift


def tabulate(keys: Keys, shift: int) -> Histogram:
    """Count (N,) keys of any order in a table of all buckets between the first and the last.

    This needs no sort, so it is fast if there are few buckets.
    """
    if len(keys) == 0:
        return Histogram(shift, keys, keys, np.empty(0, np.int64))
    buckets = keys >> np.uint32(shift)
    buckets -= buckets.min()
    buckets = buckets.astype(np.intp)
    counts = np.bincount(buckets)
    low, high = np.full(len(counts), _LAST), np.zeros(len(counts), np.uint32)
    np.minimum.at(low, buckets, keys)
    np.maximum.at(high, buckets, keys)
    used = np.flatnonzero(counts)
    return Histogram(shift, low[used], high[used], counts[used])


def runs(keys: Keys) -> Histogram:
    """Count (N,) keys of any order exactly, by sorting them."""
    low, counts = np.unique(keys, return_counts=True)
    return Histogram(0, low, low, counts.astype(np.int64))


@dataclass(frozen=True)
class Sketch:
    """Sums of several columns by occupied bucket."""

    shift: int
    """A bucket holds the keys with equal key >> shift."""
    low: Keys
    """(K,) uint32, ascending: the first key in each bucket."""
    high: Keys
    """(K,) uint32, ascending: the last key in each bucket."""
    columns: Columns
    """(K, C) int64: the sums in each bucket."""

    @classmethod
    def empty(cls, columns: int) -> Sketch:
        """A sketch without keys."""
        return cls(0, np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty((0, columns), np.int64))

    @classmethod
    def of(cls, keys: Keys, columns: Columns, shift: int = 0) -> Sketch:
        """Add up `columns` (N, C) by bucket of `keys` (N,) in any order."""
        order = np.argsort(keys, kind="stable")
        return _reduced(shift, keys[order], keys[order], columns[order])

    @classmethod
    def counting(cls, keys: Keys, counted: Sequence[int], columns: int, shift: int = 0) -> Sketch:
        """Count keys.

        Args:
            keys: (N,) in any order.
            counted: The columns to which each key adds 1.
            columns: Number of columns.
            shift: Least shift of the result.
        """
        histogram = tabulate(keys, max(shift, shift_for(keys, TABLE)))
        if histogram.shift > shift and len(histogram.low) <= CAP:  # coarser than necessary
            histogram = runs(keys)
        counts = histogram.counts[:, np.newaxis]
        reduced = _reduced(max(shift, histogram.shift), histogram.low, histogram.high, counts)
        table = np.zeros((len(reduced.low), columns), np.int64)
        table[:, counted] = reduced.columns
        return replace(reduced, columns=table)

    @property
    def tied(self) -> npt.NDArray[np.bool_]:
        """(K,) bool: True for buckets whose scores are all equal."""
        return np.asarray(self.low == self.high)

    def merge(self, *others: Sketch) -> Sketch:
        """Return the sums over all sketches."""
        parts = [part for part in (self, *others) if len(part.low)]
        if not parts:
            return self
        shift = max(part.shift for part in (self, *others))
        low = np.concatenate([part.low for part in parts])
        order = np.argsort(low, kind="stable")
        high, columns = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("high", "columns"))
        return _reduced(shift, low[order], high, columns)


def _reduced(shift: int, low: Keys, high: Keys, columns: Columns) -> Sketch:
    """Add up neighbours in the same bucket, at the first shift from `shift` on that leaves at most CAP buckets."""
    shift, starts = _buckets(low, shift)
    if len(starts) < len(low):
        ends = np.append(starts, len(low))[1:] - 1
        low, high = low[starts], np.maximum.reduceat(high, starts)
        columns = np.diff(np.cumsum(columns, axis=0)[ends], axis=0, prepend=0)
    return Sketch(shift, low, high, columns)


def _buckets(keys: Keys, shift: int) -> tuple[int, npt.NDArray[np.intp]]:
    """Return the first shift from `shift` on that leaves at most CAP buckets of ascending keys, and their starts."""
    if len(keys) == 0:
        return shift, np.empty(0, np.intp)
    changed = keys[1:] ^ keys[:-1]  # neighbours are in different buckets if a bit above the shift differs
    while np.count_nonzero(changed >= 1 << shift) >= CAP:
        shift += 1
    return shift, np.concatenate([[0], np.flatnonzero(changed >= 1 << shift) + 1])
