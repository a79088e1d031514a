"""Streaming pixel metrics of heat maps: memory grows by about a kilobyte per image, not with its pixels.

The metrics are computed from one `Sketch` over all pixels. Their intervals come from a bootstrap over images, because
the pixels of an image are not independent. For it, each image is summarised by the quantiles of its normal pixels, of
its anomalous pixels and of its regions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from raybench.metrics import curves, npz
from raybench.metrics.intervals import bootstrap, percentile_interval
from raybench.metrics.numbers import Estimate
from raybench.metrics.regions import CONNECTIVITY
from raybench.metrics.sketch import Keys, Sketch, ordered_keys, runs, shift_for, tabulate

LIMIT, STRICT_LIMIT = 0.3, 0.05
PIMO_LOW, PIMO_HIGH = 1e-5, 1e-4
SUMMARY_POINTS = 64
SUMMARISED_IMAGES = 2000
_VERSION = 2
_NORMAL, _ANOMALOUS, _REGION, _IMAGE, _CLEAN = range(5)
_COLUMNS = 5
_ONE = 2**40  # weight of a whole region or image in fixed point: sums are exact, so their order does not matter
_MAX_PENDING = 6
_BLOCK_PX = 1_000_000  # pixels that are sorted together; bounds memory
_BINS = 256  # of the bootstrap
_STEPS, _LEAST_STEPS = 2**14, 2**10  # buckets over the range of an image's pixels; least number of occupied ones
# Share of an image's pixels per point of its summary. It is even for defects. For normal pixels it is finer towards
# the top, which determines small false-positive rates.
_EVEN = np.linspace(0, 1, SUMMARY_POINTS + 1)
_TOP = 1 - (1 - _EVEN) ** 3
_SHARES = np.stack([np.diff(_TOP), np.diff(_EVEN), np.diff(_EVEN)])  # (3, P)

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelMap:
    """The heat map of one image with its mask."""

    image_id: str
    """Id of the image."""
    heatmap: npt.NDArray[np.float32]
    """(H, W) float32."""
    mask: npt.NDArray[np.bool_]
    """(H, W) bool, True where the image is anomalous."""


@dataclass(frozen=True)
class PixelQuality:
    """Pixel metrics on images with masks."""

    pixel_auroc: Estimate
    """Area under the ROC curve of pixels."""
    pixel_ap: Estimate
    """Average precision over pixels."""
    pixel_f1_max: Estimate
    """F1 score of pixels at the best threshold."""
    au_pro: Estimate
    """Area under per-region overlap up to a false-positive rate of 0.3, divided by 0.3."""
    au_pro_05: Estimate
    """The same up to a false-positive rate of 0.05."""
    aupimo: Estimate
    """Recall of the pixels of an anomalous image, averaged over the logarithm of the false-positive rate from 1e-5 to
    1e-4 on the pooled pixels of normal images, and over the anomalous images. Bertoldo et al. 2024,
    arXiv:2401.01984."""


@dataclass(frozen=True)
class _Summary:
    """Quantiles of one image's normal pixels, anomalous pixels and regions."""

    masses: Floats
    """(3,) float64: number of normal pixels, of anomalous pixels and of regions."""
    points: Keys
    """(3, P) uint32: keys at P quantiles of each."""


@dataclass(frozen=True)
class _Prepared:
    """The pixels of one image as keys of a sketch."""

    image_id: str
    """Id of the image."""
    normal: Keys
    """Keys of the normal pixels, in any order."""
    anomalous: Keys
    """Keys of the anomalous pixels, ascending."""
    region: Weights
    """Share of each anomalous pixel in its region, in fixed point."""
    image: Weights
    """Share of each anomalous pixel in the anomalous pixels of its image, in fixed point."""
    summary: _Summary
    """Quantiles for the bootstrap."""


class PixelSketch:
    """Counts of the pixels added so far, from which all pixel metrics are computed.

    Merging is exact, and the order of images and sketches does not matter.
    """

    def __init__(self, sketch: Sketch, summaries: dict[str, _Summary]) -> None:
        self._sketch = sketch
        self._pending: list[Sketch] = []  # merging several at once is faster than one by one
        self._summaries = summaries

    @classmethod
    def empty(cls) -> PixelSketch:
        """A sketch without images."""
        return cls(Sketch.empty(_COLUMNS), {})

    def add(self, maps: Sequence[PixelMap], threads: int = 1) -> None:
        """Count the pixels of some images.

        Each thread counts blocks of about a million pixels, so it is best to add several images at once.

        Args:
            maps: Heat maps with masks.
            threads: Number of threads.

        Raises:
            ValueError: A heat map contains NaN.
        """
        count = functools.partial(_count_block, shift=self._sketch.shift)
        with ThreadPoolExecutor(threads) as pool:
            for sketches, summaries in (pool.map if threads > 1 else map)(count, _blocks(maps)):
                self._pending += sketches
                self._summaries |= summaries
                if len(self._pending) >= _MAX_PENDING:
                    self._compact()
        self._trim()

    def merge(self, other: PixelSketch) -> None:
        """Add the counts of another sketch."""
        self._compact()
        other._compact()
        self._sketch = self._sketch.merge(other._sketch)
        self._summaries |= other._summaries
        self._trim()

    def _compact(self) -> None:
        """Merge the pending sketches."""
        if self._pending:
            self._sketch, self._pending = self._sketch.merge(*self._pending), []

    def _trim(self) -> None:
        """Keep a bounded sample of summaries, chosen by hash so that it does not depend on their order."""
        if len(self._summaries) > SUMMARISED_IMAGES:
            kept = sorted(self._summaries, key=lambda name: hashlib.sha256(name.encode()).digest())
            self._summaries = {name: self._summaries[name] for name in kept[:SUMMARISED_IMAGES]}

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        self._compact()
        names = sorted(self._summaries)
        masses = [self._summaries[name].masses for name in names]
        points = [self._summaries[name].points for name in names]
        arrays = {
            "shift": np.array(self._sketch.shift),
            "low": self._sketch.low,
            "high": self._sketch.high,
            "columns": self._sketch.columns,
            "image_ids": np.array(names, np.str_),
            "masses": np.array(masses, np.float64).reshape(-1, 3),
            "points": np.array(points, np.uint32).reshape(-1, 3, SUMMARY_POINTS),
        }
        return npz.to_bytes("pixel sketch", _VERSION, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> PixelSketch:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        arrays = npz.from_bytes("pixel sketch", _VERSION, data)
        rows = zip(arrays["image_ids"].tolist(), arrays["masses"], arrays["points"], strict=True)
        summaries = {name: _Summary(masses, points) for name, masses, points in rows}
        return cls(Sketch(int(arrays["shift"]), arrays["low"], arrays["high"], arrays["columns"]), summaries)

    def evaluate(self, seed: int = 0, *, intervals: bool = True) -> PixelQuality:
        """Compute the metrics.

        Args:
            seed: Seed of the bootstrap over images.
            intervals: Whether to compute intervals.
        """
        self._compact()
        columns = self._sketch.columns[::-1].T.astype(np.float64)  # (5, K), highest scores first
        images = len(self._summaries)
        if not columns[_ANOMALOUS].sum() or not columns[_NORMAL].sum():
            if columns[_ANOMALOUS].sum():
                reason = "no normal pixels"
            else:
                reason = "no masks of anomalous pixels" if images else "no masks"
            return PixelQuality(*[Estimate(None, n=images, reason=reason)] * len(fields(PixelQuality)))
        values = _metrics(columns[_NORMAL], columns[_ANOMALOUS], columns[_REGION], self._sketch.tied[::-1])
        spread = self._spread(seed) if intervals else [(0.0, 0.0)] * len(values)
        auroc, ap, f1, pro, pro_05 = (
            _estimate(value, offsets, images, intervals) for value, offsets in zip(values.tolist(), spread, strict=True)
        )
        return PixelQuality(auroc, ap, f1, pro, pro_05, self._aupimo(columns, seed, intervals))

    def _spread(self, seed: int) -> list[tuple[float, float]]:
        """Return for each metric the interval of resamples of the images, relative to the value of all images."""
        rows = self._rows()
        n = len(rows)

        def statistic(drawn: Floats) -> Floats:
            usable = drawn[((drawn @ rows.sum(-1)) > 0).all(axis=1)]  # resamples with normal and anomalous pixels
            sums = (usable @ rows.reshape(n, -1)).reshape(-1, 3, rows.shape[-1])
            return _metrics(sums[:, _NORMAL], sums[:, _ANOMALOUS], sums[:, _REGION])

        whole = statistic(np.ones((1, n)))[:, 0]
        samples = bootstrap((n,), statistic, seed, cells=20 * rows.shape[-1])
        return [percentile_interval(row - centre) for row, centre in zip(samples, whole, strict=True)]

    def _rows(self) -> Floats:
        """Return each image's mass of normal pixels, anomalous pixels and regions, highest scores first: (n, 3, bins).

        Each bin holds the same number of the summaries' points.
        """
        summaries = [self._summaries[name] for name in sorted(self._summaries)]
        keys = np.stack([summary.points for summary in summaries])  # (n, 3, P)
        mass = np.stack([summary.masses for summary in summaries])[:, :, np.newaxis] * _SHARES  # (n, 3, P)
        pooled = np.sort(keys[mass > 0])[::-1]
        edges = np.unique(pooled[:: max(1, len(pooled) // _BINS)])
        bins = len(edges) - np.searchsorted(edges, keys, side="right")
        place = np.arange(len(keys) * 3).reshape(-1, 3, 1) * (len(edges) + 1) + bins
        size = len(keys) * 3 * (len(edges) + 1)
        return np.bincount(place.ravel(), mass.ravel(), size).astype(np.float64).reshape(len(keys), 3, -1)

    def _aupimo(self, columns: Floats, seed: int, intervals: bool) -> Estimate:
        clean, needed = columns[_CLEAN].sum(), round(1 / PIMO_LOW)
        anomalous = [summary for _, summary in sorted(self._summaries.items()) if summary.masses[_ANOMALOUS]]
        if clean < needed:
            reason = f"AUPIMO needs {needed} pixels of OK images, there are {int(clean)}"
            return Estimate(None, n=len(anomalous), reason=reason)
        false, true = curves.shares(columns[_CLEAN]), curves.shares(columns[_IMAGE])
        value = curves.log_area(false, true, PIMO_LOW, PIMO_HIGH)
        if not intervals or not anomalous:
            return Estimate(value, n=len(anomalous))
        grid = np.geomspace(PIMO_LOW, PIMO_HIGH, SUMMARY_POINTS)
        buckets = np.searchsorted(false[1:], grid).clip(max=len(self._sketch.low) - 1)
        limits = self._sketch.low[::-1][buckets]
        points = np.stack([summary.points[_ANOMALOUS] for summary in anomalous])  # (n, P)
        by_image = (points[:, :, np.newaxis] >= limits).mean(axis=(1, 2))  # (n,)
        samples = bootstrap((len(by_image),), lambda drawn: drawn @ by_image / len(by_image), seed)
        return _estimate(value, percentile_interval(samples - by_image.mean()), len(by_image), intervals)


def _estimate(value: float, offsets: tuple[float, float], n: int, interval: bool) -> Estimate:
    if not interval:
        return Estimate(value, n=n)
    return Estimate(value, max(0.0, value + offsets[0]), min(1.0, value + offsets[1]), n)


def _metrics(normal: Floats, anomalous: Floats, regions: Floats, tied: curves.Flags | bool = True) -> Floats:
    """Compute the first five metrics of PixelQuality in its order, (5, ...) float64."""
    return np.stack(
        [
            curves.auroc(normal, anomalous),
            curves.average_precision(normal, anomalous, tied),
            curves.f1_max(normal, anomalous),
            curves.au_pro(normal, regions, LIMIT),
            curves.au_pro(normal, regions, STRICT_LIMIT),
        ]
    )


def _blocks(maps: Iterable[PixelMap]) -> Iterator[list[PixelMap]]:
    """Group images into blocks of about _BLOCK_PX pixels."""
    block: list[PixelMap] = []
    for image in maps:
        block.append(image)
        if sum(member.mask.size for member in block) >= _BLOCK_PX:
            yield block
            block = []
    if block:
        yield block


def _prepare(image: PixelMap) -> _Prepared:
    if not image.mask.any():
        normal = ordered_keys(image.heatmap.ravel())
        no_keys, no_weights = np.empty(0, np.uint32), np.empty(0, np.int64)
        return _Prepared(image.image_id, normal, no_keys, no_weights, no_weights, _summary(normal, no_keys, no_weights))
    normal = ordered_keys(image.heatmap[~image.mask])
    anomalous, in_region, in_image = _weighted(image)
    return _Prepared(image.image_id, normal, anomalous, in_region, in_image, _summary(normal, anomalous, in_region))


def _weighted(image: PixelMap) -> tuple[Keys, Weights, Weights]:
    """Return ascending keys of the anomalous pixels, and their shares in their region and in the image."""
    _, labels = cv2.connectedComponents(image.mask.astype(np.uint8), connectivity=CONNECTIVITY)
    inside = labels[image.mask]
    weights = (_ONE // np.maximum(np.bincount(inside), 1))[inside]
    keys = ordered_keys(image.heatmap[image.mask])
    order = np.argsort(keys, kind="stable")
    return keys[order], weights[order], np.full(len(keys), _ONE // len(keys))


def _count_block(block: Sequence[PixelMap], shift: int) -> tuple[list[Sketch], dict[str, _Summary]]:
    """Return sketches of a block's pixels, and the summaries of its images by id."""
    prepared = [_prepare(image) for image in block]
    return list(_sketches(prepared, shift)), {image.image_id: image.summary for image in prepared}


def _sketches(prepared: Sequence[_Prepared], shift: int) -> Iterator[Sketch]:
    """Sketch the pixels of normal images, the normal pixels of anomalous images, and the anomalous pixels."""
    clean = [image.normal for image in prepared if len(image.anomalous) == 0]
    mixed = [image for image in prepared if len(image.anomalous)]
    if clean:
        yield Sketch.counting(np.concatenate(clean), (_NORMAL, _CLEAN), _COLUMNS, shift)
    if mixed:
        yield Sketch.counting(np.concatenate([image.normal for image in mixed]), (_NORMAL,), _COLUMNS, shift)
        keys = np.concatenate([image.anomalous for image in mixed])
        columns = np.zeros((len(keys), _COLUMNS), np.int64)
        columns[:, _ANOMALOUS] = 1
        columns[:, _REGION] = np.concatenate([image.region for image in mixed])
        columns[:, _IMAGE] = np.concatenate([image.image for image in mixed])
        yield Sketch.of(keys, columns, shift)


def _summary(normal: Keys, anomalous: Keys, weights: Weights) -> _Summary:
    """Summarise an image; `weights` are the shares of its anomalous pixels in their regions."""
    points = np.zeros((3, SUMMARY_POINTS), np.uint32)
    masses = np.array([len(normal), len(anomalous), weights.sum() / _ONE])
    if len(normal):
        points[_NORMAL] = _quantiles(normal, _middles(_TOP))
    if len(anomalous):
        points[_ANOMALOUS] = anomalous[(_middles(_EVEN) * len(anomalous)).astype(np.intp)]
        summed = np.cumsum(weights)
        points[_REGION] = anomalous[np.searchsorted(summed, _middles(_EVEN) * summed[-1])]
    return _Summary(masses, points)


def _quantiles(keys: Keys, shares: Floats) -> Keys:
    """Return the quantiles (P,) of (N,) keys in any order; each is exact to one of at least _LEAST_STEPS buckets."""
    histogram = tabulate(keys, shift_for(keys, _STEPS))
    if histogram.shift and len(histogram.low) < _LEAST_STEPS:
        histogram = runs(keys)
    buckets = np.searchsorted(np.cumsum(histogram.counts), (shares * len(keys)).astype(np.int64), side="right")
    return histogram.low[buckets]


def _middles(edges: Floats) -> Floats:
    middles: Floats = (edges[1:] + edges[:-1]) / 2
    return middles
