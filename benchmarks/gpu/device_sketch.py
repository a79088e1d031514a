"""A sketch of pixels and quantiles of an image on the device that the heat maps are on, as `raybench.metrics` has them.

A prototype, to measure what judging on the device costs. Keys are int64 here, because torch sorts no uint32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raybench.metrics.sketch import CAP

_BITS = 32
_POWERS = 2 ** torch.arange(_BITS + 1, dtype=torch.int64)
_STEPS, _LEAST_STEPS = 2**14, 2**10  # of `metrics.pixel`


@dataclass(frozen=True)
class DeviceSketch:
    """Counts of keys by occupied bucket; see `metrics.sketch.Sketch`."""

    shift: int
    """A bucket holds the keys with equal key >> shift."""
    low: Tensor
    """(K,) int64, ascending: the first key in each bucket."""
    high: Tensor
    """(K,) int64: the last key in each bucket."""
    counts: Tensor
    """(K,) int64."""

    @classmethod
    def of(cls, keys: Tensor) -> DeviceSketch:
        """Count (N,) keys of any order."""
        values, counts = torch.unique(keys, return_counts=True)
        shift = _shift(values)
        starts = torch.ones(len(values), dtype=torch.bool, device=keys.device)
        starts[1:] = (values[1:] >> shift) != (values[:-1] >> shift)
        bucket = starts.cumsum(0) - 1
        low = values[starts]
        high = torch.zeros_like(low).scatter_reduce_(0, bucket, values, "amax")
        return cls(shift, low, high, torch.zeros_like(low).index_add_(0, bucket, counts))


def ordered_keys(values: Tensor) -> Tensor:
    """Map float32 values to int64 keys in [0, 2^32) of the same order, as `metrics.sketch.ordered_keys`."""
    bits = (values + 0.0).contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64) + 2**31


def quantiles(ascending: Tensor, shares: Tensor) -> Tensor:
    """Return the quantiles (P,) of (N,) ascending keys, as `metrics.pixel` summarises an image."""
    first, last, shift = int(ascending[0]), int(ascending[-1]), 0
    while (last >> shift) - (first >> shift) >= _STEPS:
        shift += 1
    buckets = ascending >> shift
    if shift and int((buckets[1:] != buckets[:-1]).sum()) + 1 < _LEAST_STEPS:
        buckets = ascending
    ranks = (shares * len(ascending)).to(torch.int64)
    return ascending[torch.searchsorted(buckets, buckets[ranks])]


def _shift(low: Tensor) -> int:
    """Return the first shift that leaves at most CAP buckets of ascending keys."""
    if len(low) < 2:
        return 0
    lengths = torch.bucketize(low[1:] ^ low[:-1], _POWERS.to(low.device), right=True)  # of neighbours, in bits
    borders = torch.bincount(lengths, minlength=_BITS + 2).flip(0).cumsum(0).flip(0).tolist()
    return next(shift for shift in range(_BITS + 1) if borders[shift + 1] < CAP)
