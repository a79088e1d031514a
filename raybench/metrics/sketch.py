"""A mergeable histogram of scores of any range: dyadic buckets over the bit pattern of float32.

A bucket is a run of 2^shift neighbouring float32 values. Only occupied buckets are kept; when there are more than
`CAP`, the shift is raised by one and neighbours are added. The shift of a part never exceeds that of the whole, so the
result does not depend on how the data was split or in which order parts were merged; with fewer than `CAP` distinct
values it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CAP = 65_536
_SIGN = np.uint32(1 << 31)

Keys = npt.NDArray[np.uint32]


def ordered_keys(values: npt.NDArray[np.float32]) -> Keys:
    """Integers in the order of the values, same shape: positive floats get the sign bit set, negative ones are flipped.

    -0.0 becomes 0.0. Raises ValueError on NaN.
    """
    if np.isnan(values).any():
        raise ValueError("NaN has no place in an order")
    bits = (values.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


@dataclass(frozen=True)
class Sketch:
    """keys: (K,) uint32, ascending, bucket = key >> shift. columns: (K, C) int64, what was added up in each."""

    shift: int
    keys: Keys
    columns: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, columns: int) -> Sketch:
        return cls(0, np.empty(0, np.uint32), np.empty((0, columns), np.int64))

    @classmethod
    def of(cls, keys: Keys, columns: npt.NDArray[np.int64], shift: int = 0) -> Sketch:
        """keys: (N,), any order, at shift 0. columns: (N, C)."""
        return _capped(shift, *_reduced(keys >> np.uint32(shift), columns))

    @classmethod
    def counting(cls, keys: Keys, column: int, columns: int, shift: int = 0) -> Sketch:
        """As `of`, each key adding 1 to one column: no need to carry the others through the sort."""
        ordered = np.sort(keys >> np.uint32(shift), axis=None)
        starts = _starts(ordered)
        table = np.zeros((len(starts), columns), np.int64)
        table[:, column] = np.diff(starts, append=len(ordered))
        return _capped(shift, ordered[starts], table)

    def merge(self, other: Sketch) -> Sketch:
        """Both together."""
        shift = max(self.shift, other.shift)
        keys = [part.keys >> np.uint32(shift - part.shift) for part in (self, other)]
        return _capped(shift, *_reduced(np.concatenate(keys), np.concatenate([self.columns, other.columns])))


def _capped(shift: int, keys: Keys, columns: npt.NDArray[np.int64]) -> Sketch:
    while len(keys) > CAP:
        shift += 1
        keys, columns = _reduced(keys >> np.uint32(1), columns)
    return Sketch(shift, keys, columns)


def _reduced(keys: Keys, columns: npt.NDArray[np.int64]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Ascending keys, each once, with their columns added up."""
    if len(keys) == 0:
        return keys, columns
    if not (keys[1:] >= keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys, columns = keys[order], columns[order]
    starts = _starts(keys)
    return keys[starts], np.add.reduceat(columns, starts, axis=0)


def _starts(ordered: Keys) -> npt.NDArray[np.intp]:
    if len(ordered) == 0:
        return np.empty(0, np.intp)
    return np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
