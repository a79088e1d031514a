"""A mergeable histogram of scores of any range: dyadic buckets over the bit pattern of float32.

A bucket is a run of 2^shift neighbouring float32 values. Only occupied buckets are kept; when there are more than
`CAP`, the shift is raised by one and neighbours are added. The shift of a part never exceeds that of the whole, so the
result does not depend on how the data was split or in which order parts were merged; with fewer than `CAP` distinct
values it is exact. Otherwise AUROC and AU-PRO err by about 1e-6 and AP by about 3e-6. Size: at most 3.1 MB with five
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

CAP = 65_536
TABLE = 2**18  # places of a table that is addressed by key instead of sorted: bounds memory
_SIGN = np.int32(-(2**31))
_LAST = np.uint32(2**32 - 1)

Keys = npt.NDArray[np.uint32]
Columns = npt.NDArray[np.int64]


def ordered_keys(values: npt.NDArray[np.float32]) -> Keys:
    """Integers in the order of the values, same shape: positive floats get the sign bit set, negative ones are flipped.

    -0.0 becomes 0.0. Raises ValueError on NaN.
    """
    if values.size and np.isnan(values.max()):
        raise ValueError("NaN has no place in an order")
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)
    return (bits ^ ((bits >> np.int32(31)) | _SIGN)).view(np.uint32)


@dataclass(frozen=True)
class Histogram:
    """low, high: (K,) uint32, ascending: the first and the last key in each bucket. counts: (K,) int64."""

    shift: int
    low: Keys
    high: Keys
    counts: npt.NDArray[np.int64]


def shift_for(keys: Keys, places: int) -> int:
    """The smallest shift at which buckets from the first to the last of (N,) keys are at most `places`."""
    if len(keys) == 0:
        return 0
    first, last, shift = int(keys.min()), int(keys.max()), 0
    while (last >> shift) - (first >> shift) >= places:
        shift += 1
    return shift


def tabulate(keys: Keys, shift: int) -> Histogram:
    """Count (N,) keys of any order in a table of all buckets between the first and the last: no sort, so it is quick
    where these are few."""
    if len(keys) == 0:
        return Histogram(shift, keys, keys, np.empty(0, np.int64))
    places = keys >> np.uint32(shift)
    places -= places.min()
    places = places.astype(np.intp)
    counts = np.bincount(places)
    low, high = np.full(len(counts), _LAST), np.zeros(len(counts), np.uint32)
    np.minimum.at(low, places, keys)
    np.maximum.at(high, places, keys)
    used = np.flatnonzero(counts)
    return Histogram(shift, low[used], high[used], counts[used])


def runs(keys: Keys) -> Histogram:
    """Count (N,) keys of any order one by one, by sorting them."""
    low, counts = np.unique(keys, return_counts=True)
    return Histogram(0, low, low, counts.astype(np.int64))


@dataclass(frozen=True)
class Sketch:
    """low, high: (K,) uint32, ascending: the first and the last key in each bucket, which is key >> shift. columns:
    (K, C) int64, what was added up in each."""

    shift: int
    low: Keys
    high: Keys
    columns: Columns

    @classmethod
    def empty(cls, columns: int) -> Sketch:
        return cls(0, np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty((0, columns), np.int64))

    @classmethod
    def of(cls, keys: Keys, columns: Columns, shift: int = 0) -> Sketch:
        """keys: (N,), any order. columns: (N, C)."""
        order = np.argsort(keys, kind="stable")
        return _reduced(shift, keys[order], keys[order], columns[order])

    @classmethod
    def counting(cls, keys: Keys, counted: Sequence[int], columns: int, shift: int = 0) -> Sketch:
        """keys: (N,), any order. Each adds 1 to the columns `counted`."""
        found = tabulate(keys, max(shift, shift_for(keys, TABLE)))
        if found.shift > shift and len(found.low) <= CAP:  # coarser than it need be
            found = runs(keys)
        only = _reduced(max(shift, found.shift), found.low, found.high, found.counts[:, np.newaxis])
        table = np.zeros((len(only.low), columns), np.int64)
        table[:, counted] = only.columns
        return replace(only, columns=table)

    @property
    def tied(self) -> npt.NDArray[np.bool_]:
        """(K,): buckets whose scores are all equal."""
        return np.asarray(self.low == self.high)

    def merge(self, *others: Sketch) -> Sketch:
        """All together."""
        parts = [part for part in (self, *others) if len(part.low)]
        if not parts:
            return self
        shift = max(part.shift for part in (self, *others))
        low = np.concatenate([part.low for part in parts])
        order = np.argsort(low, kind="stable")
        high, columns = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("high", "columns"))
        return _reduced(shift, low[order], high, columns)


def _reduced(shift: int, low: Keys, high: Keys, columns: Columns) -> Sketch:
    """Neighbours of the same bucket added up."""
    shift, starts = _buckets(low, shift)
    if len(starts) < len(low):
        ends = np.append(starts, len(low))[1:] - 1
        low, high = low[starts], np.maximum.reduceat(high, starts)
        columns = np.diff(np.cumsum(columns, axis=0)[ends], axis=0, prepend=0)
    return Sketch(shift, low, high, columns)


def _buckets(keys: Keys, shift: int) -> tuple[int, npt.NDArray[np.intp]]:
    """The first shift from `shift` on that leaves at most CAP buckets of ascending keys, and where these begin."""
    if len(keys) == 0:
        return shift, np.empty(0, np.intp)
    changed = keys[1:] ^ keys[:-1]  # two neighbours part at a shift when a bit above it differs
    while np.count_nonzero(changed >= 1 << shift) >= CAP:
        shift += 1
    return shift, np.concatenate([[0], np.flatnonzero(changed >= 1 << shift) + 1])
