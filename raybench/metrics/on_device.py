"""Count heat maps on the device that computed them. The counts are the same bytes as those of `heat.HostCounts`.

Pixels are sorted image by image, since a GPU sorts faster than it adds to a table. The host waits for the device only
to learn how many buckets are occupied.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raybench.errors import is_out_of_memory
from raybench.metrics import pixel, sketch
from raybench.metrics.heat import Heat
from raybench.metrics.masks import Mask
from raybench.metrics.pixel import PixelSketch, Summary
from raybench.metrics.roi import Roi

MOST_PX = 2**24  # pixels that are sorted together; bounds memory
_HALF, _LAST = 2**31, 2**31 - 1  # keys are signed here: those of `metrics.sketch` minus _HALF
_SHIFTS = 33


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Resize heat maps (B, h, w) bilinearly to (B, height, width), as `cv2.resize` does up to float32 rounding.

    `interpolate` of torch is coarser: it computes the positions of pixels in float32.
    """
    return _stretched(_stretched(maps, 2, width), 1, height)


def _stretched(maps: Tensor, dim: int, size: int) -> Tensor:
    """Resize one dimension linearly."""
    old = maps.shape[dim]
    places = ((np.arange(size) + 0.5) * (old / size) - 0.5).clip(0, old - 1)
    first = np.floor(places).astype(np.int64)
    second, share = np.minimum(first + 1, old - 1), (places - first).astype(np.float32)
    at, following, weight = (torch.from_numpy(part).to(maps.device) for part in (first, second, share))
    weight = weight if dim == 2 else weight[:, None]  # the dimensions are image, row, column
    return torch.lerp(maps.index_select(dim, at), maps.index_select(dim, following), weight)


def rounded(maps: Tensor, levels: int) -> Tensor:
    """Round each map (B, h, w) to so many steps above its minimum, as `runs.scores.quantise` does."""
    flat = maps.flatten(1).double()
    lo, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scale = ((high - lo) / levels).float().double()
    steps = torch.where(scale > 0, (flat - lo) / scale, 0.0).round().clamp(0, levels)
    return (lo + scale * steps).float().reshape(maps.shape)


def on(maps: Tensor | npt.NDArray[np.float32], device: str) -> Tensor:
    """Return heat maps as a tensor on the device, where they may be already."""
    return (torch.from_numpy(maps) if isinstance(maps, np.ndarray) else maps).to(device)


@functools.lru_cache(maxsize=4)  # most lines have one region
def inside_of(roi: Roi, device: torch.device) -> Tensor:
    """Return a region of interest as a tensor (H * W,) bool on the device."""
    return torch.from_numpy(roi.inside.ravel().copy()).to(device, non_blocking=True)


def filled(maps: Tensor, roi: Roi, value: float) -> Tensor:
    """Return maps (B, H, W) with `value` outside the region of interest that all of them have."""
    return torch.where(inside_of(roi, maps.device).reshape(maps.shape[1:]), maps, float(np.float32(value)))


def levelled(maps: Tensor, kept: npt.NDArray[np.bool_]) -> Tensor:
    """Return maps (B, h, w) whose pixels that are not kept, (B, h, w) bool, have the lowest value of the others."""
    here = torch.from_numpy(kept).to(maps.device)
    lowest = torch.where(here, maps, torch.inf).flatten(1).amin(1)
    return torch.where(here, maps, lowest[:, None, None])


def middles_and_peaks(maps: Tensor, roi: Roi | None = None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the median, as NumPy defines it, and the maximum of each map (B, H, W): (B,) float64 each.

    Pixels outside the region of interest that all maps have do not count.
    """
    counted = maps.flatten(1) if roi is None else maps.flatten(1)[:, inside_of(roi, maps.device)]
    ordered = torch.sort(counted, dim=1).values
    count = ordered.shape[1]
    middle = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    return middle.double().cpu().numpy(), ordered[:, -1].double().cpu().numpy()


class DeviceCounts:
    """Counts heat maps that are tensors (B, H, W). Implements `heat.HeatCounts`.

    Args:
        typical: Heat of a typical OK image.
    """

    def __init__(self, typical: float) -> None:
        self._typical = float(np.float32(typical))
        self._buckets: _Buckets | None = None
        self._image_ids: list[str] = []  # of the images whose pixels are counted
        self._masks: list[Mask] = []
        self._points: list[Tensor] = []
        self._heats: list[tuple[Tensor, list[Tensor]]] = []

    def add(self, image_ids: Sequence[str], maps: Tensor, masks: Sequence[Mask | None]) -> None:
        """See `heat.HeatCounts`."""
        buckets, points, heats = self._buckets or _Buckets.empty(maps.device), [], []
        start, most = 0, max(1, MOST_PX // (maps.shape[1] * maps.shape[2]))
        while start < len(maps):
            part = slice(start, start + most)
            flat = maps[part].flatten(1)
            try:
                heat = _heats(flat, _Places.of([mask or _NOTHING for mask in masks[part]], flat), self._typical)
                counted = _Counted.of(flat, masks[part], buckets.shift)
                buckets = buckets.merge(*counted.buckets)
            except (RuntimeError, MemoryError) as error:
                if len(flat) == 1 or not is_out_of_memory(error):
                    raise
                most = len(flat) // 2
                continue
            points.append(counted.points)
            heats.append(heat)
            start = part.stop
        self._buckets = buckets
        self._points += points
        self._heats += heats
        self._image_ids += [name for name, mask in zip(image_ids, masks, strict=True) if mask is not None]
        self._masks += [mask.without_pixels() for mask in masks if mask is not None]

    def finish(self) -> tuple[PixelSketch, list[Heat]]:
        """See `heat.HeatCounts`."""
        points = torch.cat(self._points).cpu().numpy().astype(np.uint32) if self._points else ()
        summaries = {
            name: Summary(pixel.masses(mask), rows)
            for name, mask, rows in zip(self._image_ids, self._masks, points, strict=True)
        }
        heats = [
            Heat(row[0], row[1], row[2], row[3], peaks.cpu().numpy())
            for sums, region_peaks in self._heats
            for row, peaks in zip(sums.tolist(), region_peaks, strict=True)
        ]
        counts = self._buckets.on_host() if self._buckets else sketch.Sketch.empty(pixel.COLUMNS)
        return PixelSketch(counts, summaries), heats


_NOTHING = Mask.empty(0, 0)


@dataclass(frozen=True)
class _Places:
    """Anomalous pixels of B images, as indices into the images' pixels one after the other."""

    pixels: Tensor
    """(n,) int64."""
    around: Tensor
    """(m,) int64: the surroundings."""
    regions: Tensor
    """(n,) int64: the region of each anomalous pixel, counted over all images."""
    counts: list[int]
    """Number of anomalous pixels of each image."""
    normal: list[int]
    """Number of normal pixels of each image."""
    region_counts: list[int]
    """Number of regions of each image."""

    @classmethod
    def of(cls, masks: Sequence[Mask], flat: Tensor) -> _Places:
        size, region_counts = flat.shape[1], [len(mask.areas) for mask in masks]
        firsts = itertools.accumulate(region_counts, initial=0)

        def placed(parts: Sequence[npt.NDArray[np.int32]], offsets: Sequence[int]) -> Tensor:
            moved = [part.astype(np.int64) + offset for part, offset in zip(parts, offsets, strict=False)]
            return torch.from_numpy(np.concatenate(moved)).to(flat.device, non_blocking=True)

        rows = [row * size for row in range(len(masks))]
        return cls(
            pixels=placed([mask.pixels for mask in masks], rows),
            around=placed([mask.around for mask in masks], rows),
            regions=placed([mask.regions for mask in masks], list(firsts)),
            counts=[len(mask.pixels) for mask in masks],
            normal=[mask.normal for mask in masks],
            region_counts=region_counts,
        )


def _heats(flat: Tensor, places: _Places, typical: float) -> tuple[Tensor, list[Tensor]]:
    """Return peak, total, inside and around (B, 4) float64 of maps (B, N), and the peaks of each image's regions."""
    excess = (flat - typical).clamp_(min=0)
    sums = [excess.amax(1).double()]
    some = torch.tensor([count > 0 for count in places.counts]).to(flat.device)
    sums.append(torch.where(some, excess.sum(1, dtype=torch.float64), 0.0))
    for indices in (places.pixels, places.around):
        chosen = torch.zeros_like(excess)
        chosen.view(-1)[indices] = 1
        sums.append((excess * chosen).sum(1, dtype=torch.float64))
    peaks = torch.full((sum(places.region_counts),), -torch.inf, device=flat.device)
    peaks.scatter_reduce_(0, places.regions, flat.reshape(-1)[places.pixels], "amax")
    return torch.stack(sums, dim=1), list(torch.split(peaks, places.region_counts))


@dataclass(frozen=True)
class _Buckets:
    """A `sketch.Sketch` on the device, with signed keys."""

    shift: int
    low: Tensor
    """(K,) int64."""
    high: Tensor
    """(K,) int64."""
    columns: Tensor
    """(K, C) int64."""

    @classmethod
    def empty(cls, device: torch.device) -> _Buckets:
        none = torch.empty(0, dtype=torch.int64, device=device)
        return cls(0, none, none, none.new_empty((0, pixel.COLUMNS)))

    def merge(self, *others: _Buckets) -> _Buckets:
        """Add up buckets, at the first shift that leaves at most `sketch.CAP`."""
        parts = (self, *others)
        low, high, columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("low", "high", "columns"))
        low, order = torch.sort(low, stable=True)
        changed = (low[1:] ^ low[:-1]) & (2**32 - 1)  # without the sign, which keys of both signs would leave
        shift = _least_shift(changed, max(part.shift for part in parts))
        first = torch.ones_like(low, dtype=torch.bool)
        first[1:] = (changed >> shift) != 0
        bucket = first.cumsum(0) - 1
        starts = first.nonzero()[:, 0]
        new_high = torch.full_like(starts, -_HALF).scatter_reduce_(0, bucket, high[order], "amax")
        new_columns = columns.new_zeros((len(starts), columns.shape[1])).index_add_(0, bucket, columns[order])
        return _Buckets(shift, low[starts], new_high, new_columns)

    def on_host(self) -> sketch.Sketch:
        low, high = ((part + _HALF).cpu().numpy().astype(np.uint32) for part in (self.low, self.high))
        return sketch.Sketch(self.shift, low, high, self.columns.cpu().numpy())


def _least_shift(changed: Tensor, shift: int) -> int:
    """Return the first shift from `shift` on at which fewer than `sketch.CAP` neighbours are in different buckets."""
    powers = 2 ** torch.arange(_SHIFTS, dtype=torch.int64, device=changed.device)
    lengths = torch.bucketize(changed, powers, right=True)  # in bits
    differing = torch.bincount(lengths, minlength=_SHIFTS + 1).flip(0).cumsum(0).flip(0).tolist()
    while differing[shift + 1] >= sketch.CAP:
        shift += 1
    return shift


@dataclass(frozen=True)
class _Counted:
    """The pixels of those images whose masks are known."""

    buckets: tuple[_Buckets, ...]
    """Of normal and of anomalous pixels."""
    points: Tensor
    """(B, 3, P) int64: quantiles of normal pixels, anomalous pixels and regions; see `pixel.Summary`."""

    @classmethod
    def of(cls, flat: Tensor, of_each: Sequence[Mask | None], shift: int) -> _Counted:
        """Count those of the maps (B, N) whose masks are known, in buckets of at most `shift`."""
        flat = flat[[row for row, mask in enumerate(of_each) if mask is not None]]
        masks = [mask for mask in of_each if mask is not None]
        points = torch.zeros((len(masks), 3, pixel.SUMMARY_POINTS), dtype=torch.int64, device=flat.device)
        if not masks:
            return cls((), points)
        places = _Places.of(masks, flat)
        keys = _keys(flat)
        anomalous = keys.view(-1)[places.pixels]
        keys.view(-1)[places.pixels] = _LAST  # they end up behind the normal pixels, as those that do not count
        for roi in {mask.roi for mask in masks if mask.roi}:
            rows = [row for row, mask in enumerate(masks) if mask.roi == roi]
            keys[rows] = torch.where(inside_of(roi, keys.device), keys[rows], _LAST)
        ordered = torch.sort(keys, dim=1).values
        points[:, pixel.NORMAL] = _normal_points(ordered, places.normal)
        buckets = [_normal_buckets(ordered, places, shift)]
        if len(anomalous):
            buckets.append(_count_anomalous(anomalous, places, masks, points))
        return cls(tuple(buckets), points)


def _keys(flat: Tensor) -> Tensor:
    """Map float32 to int32 of the same order; a new tensor. -0.0 becomes 0.0."""
    bits = (flat + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & _LAST)


def _normal_points(ordered: Tensor, normal: Sequence[int]) -> Tensor:
    """Return P quantiles (B, P) of each row's first `normal` keys, as `pixel` does for its summaries; 0 without any."""
    count = torch.tensor(normal).to(ordered.device)
    steps = torch.arange(_SHIFTS - 1, device=ordered.device)
    first, last = ordered[:, :1].long(), ordered.gather(1, (count - 1).clamp(min=0)[:, None]).long()
    fits = (last >> steps) - (first >> steps) < pixel.STEPS
    shift = fits.int().argmax(1, keepdim=True).int()
    inside = torch.arange(1, ordered.shape[1], device=ordered.device) < count[:, None]
    buckets = ordered >> shift
    occupied = ((buckets[:, 1:] != buckets[:, :-1]) & inside).sum(1, keepdim=True) + 1
    buckets = ordered >> torch.where(occupied < pixel.LEAST_STEPS, 0, shift)
    ranks = torch.from_numpy(np.stack([pixel.normal_ranks(number) for number in normal])).to(ordered.device)
    places = torch.searchsorted(buckets, buckets.gather(1, ranks))
    return torch.where(count[:, None] > 0, ordered.gather(1, places).long() + _HALF, 0)


def _normal_buckets(ordered: Tensor, places: _Places, shift: int) -> _Buckets:
    """Count the keys of normal pixels, the first of each row of ordered (B, N)."""
    size, flat = ordered.shape[1], ordered.view(-1)
    count = torch.tensor(places.normal).to(ordered.device)
    is_clean = torch.tensor([not anomalous for anomalous in places.counts]).to(ordered.device)
    buckets = ordered >> shift
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = buckets[:, 1:] != buckets[:, :-1]
    first &= torch.arange(size, device=ordered.device) < count[:, None]
    starts = first.view(-1).nonzero()[:, 0]
    row = starts // size
    ends = torch.minimum(torch.cat([starts[1:], starts.new_tensor([flat.numel()])]), row * size + count[row])
    columns = starts.new_zeros((len(starts), pixel.COLUMNS))
    columns[:, pixel.NORMAL] = ends - starts
    columns[:, pixel.CLEAN] = torch.where(is_clean[row], ends - starts, 0)
    return _Buckets(shift, flat[starts].long(), flat[ends - 1].long(), columns)


def _count_anomalous(keys: Tensor, places: _Places, masks: Sequence[Mask], points: Tensor) -> _Buckets:
    """Count the anomalous pixels (n,) of all images, and write their quantiles into `points` (B, 3, P)."""
    image = torch.repeat_interleave(torch.arange(len(masks)), torch.tensor(places.counts)).to(keys.device)
    _, order = torch.sort(image * 2**32 + keys.long() + _HALF, stable=True)
    keys = keys.long()[order]
    areas = torch.from_numpy(np.concatenate([mask.areas for mask in masks])).to(keys.device)
    weights = (pixel.ONE // areas)[places.regions][order]
    of_image = torch.tensor([pixel.ONE // max(count, 1) for count in places.counts]).to(keys.device)
    columns = keys.new_zeros((len(keys), pixel.COLUMNS))
    columns[:, pixel.ANOMALOUS], columns[:, pixel.REGION], columns[:, pixel.IMAGE] = 1, weights, of_image[image]
    start = 0
    for row, count in enumerate(places.counts):
        if count:
            own = keys[start : start + count] + _HALF
            summed = weights[start : start + count].cumsum(0).double()
            even = torch.from_numpy(pixel.EVEN_MIDDLES).to(keys.device)
            points[row, pixel.ANOMALOUS] = own[(even * count).long()]
            points[row, pixel.REGION] = own[torch.searchsorted(summed, even * summed[-1])]
        start += count
    low, order = torch.sort(keys, stable=True)
    return _Buckets(0, low, low, columns[order])
