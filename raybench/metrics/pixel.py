"""Pixel-level quality of heat maps, streamed: memory grows with a thousand bytes per image, not with its pixels.

The numbers come from one `Sketch` over all pixels. Their intervals come from a bootstrap over images (pixels of one
image are not independent), for which each image leaves a summary: the quantiles of its normal pixels, of its anomalous
pixels and of its regions.
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
_ONE = 2**40  # a region's or an image's whole weight, in fixed point: sums are exact, so their order does not matter
_PARTS = 6
_BLOCK_PX = 1_000_000  # pixels that are sorted together: bounds memory
_BINS = 256  # of the bootstrap
_STEPS, _LEAST_STEPS = 2**14, 2**10  # between an image's lowest and highest pixel; of these with pixels, at least
# Shares of an image's pixels behind each of its points: even for defects; finer towards the top for normal pixels,
# where a small false-positive rate is decided.
_EVEN = np.linspace(0, 1, SUMMARY_POINTS + 1)
_TOP = 1 - (1 - _EVEN) ** 3
_SHARES = np.stack([np.diff(_TOP), np.diff(_EVEN), np.diff(_EVEN)])  # (3, P)

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelMap:
    """heatmap: (H, W) float32. mask: (H, W) bool, True where the image is anomalous."""

    image_id: str
    heatmap: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelQuality:
    """au_pro, au_pro_05: up to a false-positive rate of 0.3 and of 0.05. pixel_f1_max: the F1 of the best threshold.

    aupimo: of every anomalous image the recall of its pixels, averaged over thresholds at which between 1e-5 and 1e-4
    of the pixels of normal images are false positives (in the logarithm), averaged over the images; Bertoldo et al.
    2024, arXiv:2401.01984. Normal images are pooled.
    """

    pixel_auroc: Estimate
    pixel_ap: Estimate
    pixel_f1_max: Estimate
    au_pro: Estimate
    au_pro_05: Estimate
    aupimo: Estimate


@dataclass(frozen=True)
class _Summary:
    """masses: (3,) float64: pixels, pixels, regions. points: (3, P) uint32 keys, where each P-th of the mass lies."""

    masses: Floats
    points: Keys


@dataclass(frozen=True)
class _Prepared:
    """One image. normal: keys. anomalous: ascending keys, region, image: the share of each in its own."""

    image_id: str
    normal: Keys
    anomalous: Keys
    region: Weights
    image: Weights
    summary: _Summary


class PixelSketch:
    """What is known of the pixels added so far. Merging is exact, and order does not matter."""

    def __init__(self, sketch: Sketch, summaries: dict[str, _Summary]) -> None:
        self._merged = sketch
        self._parts: list[Sketch] = []  # still to be merged: together is quicker than one by one
        self._summaries = summaries

    @property
    def _sketch(self) -> Sketch:
        if self._parts:
            self._merged, self._parts = self._merged.merge(*self._parts), []
        return self._merged

    @classmethod
    def empty(cls) -> PixelSketch:
        return cls(Sketch.empty(_COLUMNS), {})

    def add(self, maps: Sequence[PixelMap], threads: int = 1) -> None:
        """Count the pixels of some images, blocks of about a million at once on each thread. Best called with several
        images at once. Raises ValueError on NaN."""
        counted = functools.partial(_counted, shift=self._merged.shift)
        with ThreadPoolExecutor(threads) as pool:
            for sketches, summaries in (pool.map if threads > 1 else map)(counted, _blocks(maps)):
                self._parts += sketches
                self._summaries |= summaries
                if len(self._parts) >= _PARTS:
                    self._sketch  # noqa: B018
        self._trim()

    def merge(self, other: PixelSketch) -> None:
        self._merged = self._sketch.merge(other._sketch)
        self._summaries |= other._summaries
        self._trim()

    def _trim(self) -> None:
        """Keep a bounded sample of summaries: by hash, so the same whatever the order."""
        if len(self._summaries) > SUMMARISED_IMAGES:
            kept = sorted(self._summaries, key=lambda name: hashlib.sha256(name.encode()).digest())
            self._summaries = {name: self._summaries[name] for name in kept[:SUMMARISED_IMAGES]}

    def to_bytes(self) -> bytes:
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
        """Raises IntegrityError."""
        found = npz.from_bytes("pixel sketch", _VERSION, data)
        rows = zip(found["image_ids"].tolist(), found["masses"], found["points"], strict=True)
        summaries = {name: _Summary(masses, points) for name, masses, points in rows}
        return cls(Sketch(int(found["shift"]), found["low"], found["high"], found["columns"]), summaries)

    def evaluate(self, seed: int = 0, *, intervals: bool = True) -> PixelQuality:
        """The numbers, with intervals of a bootstrap over images."""
        columns = self._sketch.columns[::-1].T.astype(np.float64)  # (5, K), highest scores first
        images = len(self._summaries)
        if not columns[_ANOMALOUS].sum() or not columns[_NORMAL].sum():
            what = "no masks of anomalous pixels" if images else "no masks"
            missing = Estimate(None, n=images, reason=what if not columns[_ANOMALOUS].sum() else "no normal pixels")
            return PixelQuality(*[missing] * len(fields(PixelQuality)))
        values = _metrics(columns[_NORMAL], columns[_ANOMALOUS], columns[_REGION], self._sketch.tied[::-1])
        spread = self._spread(seed) if intervals else [(0.0, 0.0)] * len(values)
        auroc, ap, f1, pro, pro_05 = (
            _number(value, around, images, intervals) for value, around in zip(values.tolist(), spread, strict=True)
        )
        return PixelQuality(auroc, ap, f1, pro, pro_05, self._aupimo(columns, seed, intervals))

    def _spread(self, seed: int) -> list[tuple[float, float]]:
        """How far resamples of the images lie from all of them, below and above: one pair per metric."""
        rows = self._rows()
        n = len(rows)

        def statistic(drawn: Floats) -> Floats:
            usable = drawn[((drawn @ rows.sum(-1)) > 0).all(axis=1)]  # those that drew normal and anomalous pixels
            sums = (usable @ rows.reshape(n, -1)).reshape(-1, 3, rows.shape[-1])
            return _metrics(sums[:, _NORMAL], sums[:, _ANOMALOUS], sums[:, _REGION])

        whole = statistic(np.ones((1, n)))[:, 0]
        samples = bootstrap((n,), statistic, seed, cells=20 * rows.shape[-1])
        return [percentile_interval(row - centre) for row, centre in zip(samples, whole, strict=True)]

    def _rows(self) -> Floats:
        """(n, 3, bins): each image's mass of normal pixels, anomalous pixels and regions, highest scores first.

        Bins hold equal parts of all points of all summaries.
        """
        summaries = [self._summaries[name] for name in sorted(self._summaries)]
        keys = np.stack([one.points for one in summaries])  # (n, 3, P)
        mass = np.stack([one.masses for one in summaries])[:, :, np.newaxis] * _SHARES  # (n, 3, P)
        pooled = np.sort(keys[mass > 0])[::-1]
        edges = np.unique(pooled[:: max(1, len(pooled) // _BINS)])
        bins = len(edges) - np.searchsorted(edges, keys, side="right")
        place = np.arange(len(keys) * 3).reshape(-1, 3, 1) * (len(edges) + 1) + bins
        size = len(keys) * 3 * (len(edges) + 1)
        return np.bincount(place.ravel(), mass.ravel(), size).astype(np.float64).reshape(len(keys), 3, -1)

    def _aupimo(self, columns: Floats, seed: int, intervals: bool) -> Estimate:
        clean, needed = columns[_CLEAN].sum(), round(1 / PIMO_LOW)
        anomalous = [one for _, one in sorted(self._summaries.items()) if one.masses[_ANOMALOUS]]
        if clean < needed:
            reason = f"AUPIMO needs {needed} pixels of OK images, there are {int(clean)}"
            return Estimate(None, n=len(anomalous), reason=reason)
        false, true = curves.shares(columns[_CLEAN]), curves.shares(columns[_IMAGE])
        value = curves.log_area(false, true, PIMO_LOW, PIMO_HIGH)
        if not intervals or not anomalous:
            return Estimate(value, n=len(anomalous))
        grid = np.geomspace(PIMO_LOW, PIMO_HIGH, SUMMARY_POINTS)
        at = np.searchsorted(false[1:], grid).clip(max=len(self._sketch.low) - 1)
        limits = self._sketch.low[::-1][at]
        points = np.stack([one.points[_ANOMALOUS] for one in anomalous])  # (n, P)
        each = (points[:, :, np.newaxis] >= limits).mean(axis=(1, 2))  # (n,): of every anomalous image
        samples = bootstrap((len(each),), lambda drawn: drawn @ each / len(each), seed)
        return _number(value, percentile_interval(samples - each.mean()), len(each), intervals)


def _number(value: float, spread: tuple[float, float], n: int, interval: bool) -> Estimate:
    if not interval:
        return Estimate(value, n=n)
    return Estimate(value, max(0.0, value + spread[0]), min(1.0, value + spread[1]), n)


def _metrics(normal: Floats, anomalous: Floats, regions: Floats, tied: curves.Flags | bool = True) -> Floats:
    """(5, ...) float64, in the order of PixelQuality."""
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
    block: list[PixelMap] = []
    for each in maps:
        block.append(each)
        if sum(one.mask.size for one in block) >= _BLOCK_PX:
            yield block
            block = []
    if block:
        yield block


def _prepare(each: PixelMap) -> _Prepared:
    if not each.mask.any():
        normal = ordered_keys(each.heatmap.ravel())
        nothing = np.empty(0, np.int64)
        anomalous, region, image = np.empty(0, np.uint32), nothing, nothing
    else:
        normal = ordered_keys(each.heatmap[~each.mask])
        anomalous, region, image = _weighted(each)
    return _Prepared(each.image_id, normal, anomalous, region, image, _summary(normal, anomalous, region))


def _weighted(each: PixelMap) -> tuple[Keys, Weights, Weights]:
    """Ascending keys of the anomalous pixels, and the share of each in its region and in its image, in fixed point."""
    _, labels = cv2.connectedComponents(each.mask.astype(np.uint8), connectivity=CONNECTIVITY)
    inside = labels[each.mask]
    weights = (_ONE // np.maximum(np.bincount(inside), 1))[inside]
    keys = ordered_keys(each.heatmap[each.mask])
    order = np.argsort(keys, kind="stable")
    return keys[order], weights[order], np.full(len(keys), _ONE // len(keys))


def _counted(block: Sequence[PixelMap], shift: int) -> tuple[list[Sketch], dict[str, _Summary]]:
    """Sketches of a block's pixels, and the summaries of its images."""
    prepared = [_prepare(each) for each in block]
    return list(_sketches(prepared, shift)), {each.image_id: each.summary for each in prepared}


def _sketches(prepared: Sequence[_Prepared], shift: int) -> Iterator[Sketch]:
    """Sketches of the pixels of normal images, of the normal ones of anomalous images, and of the anomalous ones."""
    clean = [each.normal for each in prepared if len(each.anomalous) == 0]
    mixed = [each for each in prepared if len(each.anomalous)]
    if clean:
        yield Sketch.counting(np.concatenate(clean), (_NORMAL, _CLEAN), _COLUMNS, shift)
    if mixed:
        yield Sketch.counting(np.concatenate([each.normal for each in mixed]), (_NORMAL,), _COLUMNS, shift)
        keys, region, image = (
            np.concatenate([getattr(each, name) for each in mixed]) for name in ("anomalous", "region", "image")
        )
        columns = np.zeros((len(keys), _COLUMNS), np.int64)
        columns[:, _ANOMALOUS], columns[:, _REGION], columns[:, _IMAGE] = 1, region, image
        yield Sketch.of(keys, columns, shift)


def _summary(normal: Keys, anomalous: Keys, weights: Weights) -> _Summary:
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
    """The keys (P,) below which these shares of (N,) keys lie, in any order; to one of thousands of steps."""
    found = tabulate(keys, shift_for(keys, _STEPS))
    if found.shift and len(found.low) < _LEAST_STEPS:
        found = runs(keys)
    at = np.searchsorted(np.cumsum(found.counts), (shares * len(keys)).astype(np.int64), side="right")
    return found.low[at]


def _middles(edges: Floats) -> Floats:
    middles: Floats = (edges[1:] + edges[:-1]) / 2
    return middles
