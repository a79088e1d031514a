"""A mergeable histogram of scores of any range: dyadic buckets over the bit pattern of float32.

A bucket is a run of 2^shift neighbouring float32 values. Only occupied buckets are kept. When there are more than
`CAP`, the shift is raised by one and pairs of neighbours are added up. The shift of a part never exceeds that of the
whole, so the result does not depend on how the data was split or on the order of merging. With fewer than `CAP`
distinct values it is exact; otherwise the error of AUROC and AU-PRO is about 1e-6 and that of AP about 3e-6. A sketch
with five columns takes at most 3.1 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

CAP = 65_536
_PAGE_BITS, PAGES = 6, 2**14  # of the table of buckets: it takes at most 17 MB per thread
_LEAST_TABLE_SHIFT = 6  # narrower buckets would need a large directory of pages
_SIGN = np.int32(-(2**31))
_LAST = np.uint32(2**32 - 1)
_LOWEST, _HIGHEST = np.uint32(0x007FFFFF), np.uint32(0xFF800000)  # keys of the infinities; NaNs lie outside
_local = threading.local()

Keys = npt.NDArray[np.uint32]
Columns = npt.NDArray[np.int64]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function. Machine code is kept for other processes where a folder for it can be written."""
    try:
        kept: Callable[..., Any] = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        kept = njit(nogil=True)(function)
    return kept


def ordered_keys(values: npt.NDArray[np.float32], skipped: npt.NDArray[np.bool_] | None = None) -> Keys:
    """Map float32 values (N,) to uint32 keys of the same order, without the `skipped` ones.

    The sign bit of positive floats is set, and all bits of negative floats are inverted. -0.0 becomes 0.0. Raises
    ValueError on NaN.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.int32)
    keys: Keys = _keys(bits) if skipped is None else _other_keys(bits, skipped)
    if len(keys) and (keys.max() > _HIGHEST or keys.min() < _LOWEST):
        raise ValueError("NaN has no place in an order")
    return keys


@compiled
def _key(bits):  # type: ignore[no-untyped-def]
    if bits == _SIGN:  # -0.0
        bits = np.int32(0)
    return np.uint32(bits ^ ((bits >> np.int32(31)) | _SIGN))


@compiled
def _keys(bits):  # type: ignore[no-untyped-def]
    keys = np.empty(len(bits), np.uint32)
    for at in range(len(bits)):
        keys[at] = _key(bits[at])
    return keys


@compiled
def _other_keys(bits, skipped):  # type: ignore[no-untyped-def]
    keys, count = np.empty(len(bits), np.uint32), 0
    for at in range(len(bits)):
        keys[count] = _key(bits[at])
        count += not skipped[at]
    return keys[:count]


def ascending(keys: Keys) -> npt.NDArray[np.intp]:
    """Return the order of (N,) keys, equal ones as they come. Faster than `np.argsort` of the keys."""
    return np.asarray(
        np.sort(keys.astype(np.uint64) << 32 | np.arange(len(keys), dtype=np.uint64)) & 0xFFFFFFFF, np.intp
    )


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

    def coarser(self, shift: int) -> Histogram:
        """Add up neighbours in the same bucket of `shift`, which is at least that of the histogram."""
        starts = _starts(self.low, shift)
        ends = np.append(starts, len(self.low))[1:] - 1
        return Histogram(shift, self.low[starts], self.high[ends], np.add.reduceat(self.counts, starts))


def shift_for(first: int, last: int, buckets: int) -> int:
    """Return the smallest shift at which the keys from `first` to `last` span at most this number of buckets."""
    shift = 0
    while (last >> shift) - (first >> shift) >= buckets:
        shift += 1
    return shift


def tabulate(keys: Keys, shift: int) -> Histogram:
    """Count (N,) keys of any order by bucket.

    Keys are counted in a table of pages, without a sort, unless the buckets are so narrow or so scattered that the
    table would be large; then they are sorted.
    """
    if shift < _LEAST_TABLE_SHIFT:
        return _sorted(keys, shift)
    work = _workspace()
    del _local.work  # an exception between the calls would leave counts of these keys in it
    used = _count(keys, shift, *work)
    found = Histogram(shift, *_collect(used, *work)) if used >= 0 else _sorted(keys, shift)
    _local.work = work
    return found


def _sorted(keys: Keys, shift: int) -> Histogram:
    """Count keys by sorting them."""
    ordered = np.sort(keys)
    starts = _starts(ordered, shift)
    counts = np.diff(np.append(starts, len(ordered)))
    return Histogram(shift, ordered[starts], ordered[starts + counts - 1], counts)


def _workspace() -> tuple[Keys, Keys, Keys]:
    """Return this thread's table: directory of pages, numbers of the pages, and pages (count, low, high, unused)."""
    if not hasattr(_local, "work"):
        directory = np.full(2 ** (32 - _LEAST_TABLE_SHIFT - _PAGE_BITS), _LAST)
        _local.work = directory, np.empty(PAGES, np.uint32), np.empty((PAGES << _PAGE_BITS, 4), np.uint32)
    work: tuple[Keys, Keys, Keys] = _local.work
    return work


@compiled
def _count(keys, shift, directory, numbers, pages):  # type: ignore[no-untyped-def]
    """Count keys into pages.

    Returns the number of pages used; -1 if there are too few, and the directory is then clean.
    """
    used = 0
    to_bucket, to_page = np.uint32(shift), np.uint32(shift + _PAGE_BITS)
    for key in keys:
        number = key >> to_page
        page = directory[number]
        if page == _LAST:
            if used == len(numbers):
                directory[numbers] = _LAST
                return -1
            page = np.uint32(used)
            directory[number], numbers[used] = page, number
            for new in range(used << _PAGE_BITS, (used + 1) << _PAGE_BITS):
                pages[new, 0], pages[new, 1], pages[new, 2] = 0, _LAST, 0
            used += 1
        # An unsigned index spares the check whether it counts from the end.
        row = np.uint64(page << np.uint32(_PAGE_BITS)) + np.uint64((key >> to_bucket) & np.uint32(2**_PAGE_BITS - 1))
        pages[row, 0] += np.uint32(1)
        pages[row, 1] = min(pages[row, 1], key)
        pages[row, 2] = max(pages[row, 2], key)
    return used


@compiled
def _collect(used, directory, numbers, pages):  # type: ignore[no-untyped-def]
    """Return low, high and counts of the occupied buckets in ascending order, and clean the directory."""
    occupied = 0
    for row in range(used << _PAGE_BITS):
        occupied += pages[row, 0] > 0
    low, high, counts = np.empty(occupied, np.uint32), np.empty(occupied, np.uint32), np.empty(occupied, np.int64)
    at = 0
    for number in np.sort(numbers[:used]):
        first = directory[number] << _PAGE_BITS
        for row in range(first, first + (1 << _PAGE_BITS)):
            if pages[row, 0]:
                counts[at], low[at], high[at] = pages[row, 0], pages[row, 1], pages[row, 2]
                at += 1
        directory[number] = _LAST
    return low, high, counts


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
    def ascending(cls, keys: Keys, columns: Columns, shift: int = 0) -> Sketch:
        """Add up `columns` (N, C) by bucket of ascending `keys` (N,)."""
        return _reduced(shift, keys, keys, columns)

    @classmethod
    def counted(cls, histogram: Histogram, counted: Sequence[int], columns: int) -> Sketch:
        """Add the counts of a histogram to each of the columns `counted`."""
        table = np.zeros((len(histogram.low), columns), np.int64)
        table[:, counted] = histogram.counts[:, np.newaxis]
        return _reduced(histogram.shift, histogram.low, histogram.high, table)

    @property
    def tied(self) -> npt.NDArray[np.bool_]:
        """(K,) bool: True for buckets whose scores are all equal."""
        return np.asarray(self.low == self.high)

    def merge(self, *others: Sketch) -> Sketch:
        """Return the sums over all sketches."""
        merged = self
        for other in others:
            shift = max(merged.shift, other.shift)
            arrays = (part_of for part in (merged, other) for part_of in (part.low, part.high, part.columns))
            merged = _reduced(shift, *_merge(shift, *arrays))
        return merged


@compiled
def _merge(shift, low, high, columns, other_low, other_high, other_columns):  # type: ignore[no-untyped-def]
    """Merge two ascending lists of buckets, and add up buckets that are equal at `shift`."""
    most = len(low) + len(other_low)
    new_low, new_high = np.empty(most, np.uint32), np.empty(most, np.uint32)
    new_columns = np.empty((most, columns.shape[1]), np.int64)
    first, second, last, by = 0, 0, -1, np.uint32(shift)
    for _ in range(most):
        mine = second == len(other_low) or (first < len(low) and low[first] <= other_low[second])
        from_low = low[first] if mine else other_low[second]
        from_high = high[first] if mine else other_high[second]
        if last < 0 or from_low >> by != new_low[last] >> by:
            last += 1
            new_low[last], new_high[last] = from_low, from_high
            new_columns[last] = 0
        new_high[last] = max(new_high[last], from_high)
        for column in range(columns.shape[1]):
            new_columns[last, column] += columns[first, column] if mine else other_columns[second, column]
        first, second = first + mine, second + (not mine)
    last += 1
    return new_low[:last], new_high[:last], new_columns[:last]


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
    changed = keys[1:] ^ keys[:-1]  # neighbours are in different buckets if a bit above the shift differs
    while np.count_nonzero(changed >= 1 << shift) >= CAP:
        shift += 1
    return shift, _starts(keys, shift)


def _starts(keys: Keys, shift: int) -> npt.NDArray[np.intp]:
    """Return where buckets of ascending keys start."""
    if len(keys) == 0:
        return np.empty(0, np.intp)
    return np.concatenate([[0], np.flatnonzero((keys[1:] ^ keys[:-1]) >= 1 << shift) + 1])
