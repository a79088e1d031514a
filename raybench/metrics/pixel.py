"""Pixel-level quality of heat maps, streamed: memory grows with a thousand bytes per image, not with its pixels.

The numbers come from one `Sketch` over all pixels. Their intervals come from a bootstrap over images (pixels of one
image are not independent), for which each image leaves a summary: the quantiles of its normal pixels, of its anomalous
pixels and of its regions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from raybench.metrics import archive, curves
from raybench.metrics.intervals import bootstrap, percentile_interval
from raybench.metrics.sketch import Keys, Sketch, ordered_keys
from raybench.results import Number

LIMIT, STRICT_LIMIT = 0.3, 0.05
SUMMARY_POINTS = 64
SUMMARISED_IMAGES = 2000
RESAMPLES = 300
_VERSION = 1
_NORMAL, _ANOMALOUS, _REGION = range(3)
_ONE = 2**40  # a region's whole weight, in fixed point: sums are exact, so their order does not matter
_CONNECTIVITY = 8
# Shares of an image's pixels behind each of its points: even for defects; finer towards the top for normal pixels,
# where a small false-positive rate is decided.
_EVEN = np.linspace(0, 1, SUMMARY_POINTS + 1)
_TOP = 1 - (1 - _EVEN) ** 3


@dataclass(frozen=True)
class PixelMap:
    """heatmap: (H, W) float32. mask: (H, W) bool, True where the image is anomalous."""

    image_id: str
    heatmap: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PixelQuality:
    """au_pro, au_pro_05: up to a false-positive rate of 0.3 and of 0.05."""

    pixel_auroc: Number
    pixel_ap: Number
    au_pro: Number
    au_pro_05: Number


@dataclass(frozen=True)
class _Summary:
    """masses: (3,) float64: pixels, pixels, regions. points: (3, P) uint32 keys, where each P-th of the mass lies."""

    masses: npt.NDArray[np.float64]
    points: npt.NDArray[np.uint32]


class PixelSketch:
    """What is known of the pixels added so far. Merging is exact, and order does not matter."""

    def __init__(self, sketch: Sketch, summaries: dict[str, _Summary]) -> None:
        self._sketch = sketch
        self._summaries = summaries

    @classmethod
    def empty(cls) -> PixelSketch:
        return cls(Sketch.empty(3), {})

    def add(self, maps: Sequence[PixelMap]) -> None:
        """Count the pixels of some images. Best called with several at once. Raises ValueError on NaN."""
        for part in (self._one(each) for each in maps):
            self._sketch = self._sketch.merge(part)
        self._trim()

    def merge(self, other: PixelSketch) -> None:
        self._sketch = self._sketch.merge(other._sketch)
        self._summaries |= other._summaries
        self._trim()

    def _one(self, each: PixelMap) -> Sketch:
        keys = ordered_keys(each.heatmap)
        normal = np.sort(keys[~each.mask])
        anomalous, weights = _weighted(keys, each.mask)
        self._summaries[each.image_id] = _summary(normal, anomalous, weights)
        shift = self._sketch.shift
        counted = Sketch.counting(normal, _NORMAL, 3, shift)
        if len(anomalous) == 0:
            return counted
        columns = np.zeros((len(anomalous), 3), np.int64)
        columns[:, _ANOMALOUS], columns[:, _REGION] = 1, weights
        return counted.merge(Sketch.of(anomalous, columns, shift))

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
            "keys": self._sketch.keys,
            "columns": self._sketch.columns,
            "image_ids": np.array(names, np.str_),
            "masses": np.array(masses, np.float64).reshape(-1, 3),
            "points": np.array(points, np.uint32).reshape(-1, 3, SUMMARY_POINTS),
        }
        return archive.to_bytes("pixel sketch", _VERSION, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> PixelSketch:
        """Raises IntegrityError."""
        found = archive.from_bytes("pixel sketch", _VERSION, data)
        rows = zip(found["image_ids"].tolist(), found["masses"], found["points"], strict=True)
        summaries = {name: _Summary(masses, points) for name, masses, points in rows}
        return cls(Sketch(int(found["shift"]), found["keys"], found["columns"]), summaries)

    def evaluate(self, seed: int = 0) -> PixelQuality:
        """The numbers, with intervals of a bootstrap over images."""
        normal, anomalous, regions = self._sketch.columns[::-1].T.astype(np.float64)
        images = len(self._summaries)
        if not anomalous.sum() or not normal.sum():
            what = "no masks of anomalous pixels" if images else "no masks"
            missing = Number(None, n=images, reason=what if not anomalous.sum() else "no normal pixels")
            return PixelQuality(missing, missing, missing, missing)
        values = _metrics(normal, anomalous, regions)
        spread = self._spread(seed)
        numbers = []
        for value, (low, high) in zip(values.tolist(), spread, strict=True):
            numbers.append(Number(value, max(0.0, value + low), min(1.0, value + high), images))
        return PixelQuality(*numbers)

    def _spread(self, seed: int) -> list[tuple[float, float]]:
        """How far resamples of the images lie from all of them, below and above: one pair per metric."""
        summaries = [self._summaries[name] for name in sorted(self._summaries)]
        masses = np.stack([one.masses for one in summaries])  # (n, 3)
        keys = np.stack([one.points for one in summaries])  # (n, 3, P)
        n, points = len(summaries), 3 * SUMMARY_POINTS
        order = np.argsort(keys.reshape(-1), kind="stable")[::-1]
        image, kind, at = np.unravel_index(order, keys.shape)
        shares = np.stack([np.diff(_TOP), np.diff(_EVEN), np.diff(_EVEN)])
        weight = masses[image, kind] * shares[kind, at]

        def statistic(drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            placed = drawn[_usable(drawn, masses)][:, image] * weight
            return _metrics(*(np.where(kind == column, placed, 0.0) for column in range(3)))

        whole = statistic(np.ones((1, n)))[:, 0]
        samples = bootstrap((n,), statistic, seed, RESAMPLES, cells=8 * n * points)
        return [percentile_interval(row - centre) for row, centre in zip(samples, whole, strict=True)]


def _usable(drawn: npt.NDArray[np.float64], masses: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Resamples that drew both normal and anomalous pixels."""
    return np.asarray(((drawn @ masses) > 0).all(axis=1))


def _metrics(
    normal: npt.NDArray[np.float64], anomalous: npt.NDArray[np.float64], regions: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(4, ...) float64, in the order of PixelQuality."""
    return np.stack(
        [
            curves.auroc(normal, anomalous),
            curves.average_precision(normal, anomalous),
            curves.au_pro(normal, regions, LIMIT),
            curves.au_pro(normal, regions, STRICT_LIMIT),
        ]
    )


def _weighted(keys: Keys, mask: npt.NDArray[np.bool_]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Ascending keys of the anomalous pixels, and the share of each in its region, in fixed point."""
    if not mask.any():
        return np.empty(0, np.uint32), np.empty(0, np.int64)
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=_CONNECTIVITY)
    inside = labels[mask]
    weights = (_ONE // np.maximum(np.bincount(inside), 1))[inside]
    order = np.argsort(keys[mask], kind="stable")
    return keys[mask][order], weights[order]


def _summary(normal: Keys, anomalous: Keys, weights: npt.NDArray[np.int64]) -> _Summary:
    points = np.zeros((3, SUMMARY_POINTS), np.uint32)
    masses = np.array([len(normal), len(anomalous), weights.sum() / _ONE])
    if len(normal):
        points[_NORMAL] = normal[(_middles(_TOP) * len(normal)).astype(np.intp)]
    if len(anomalous):
        points[_ANOMALOUS] = anomalous[(_middles(_EVEN) * len(anomalous)).astype(np.intp)]
        summed = np.cumsum(weights)
        points[_REGION] = anomalous[np.searchsorted(summed, _middles(_EVEN) * summed[-1])]
    return _Summary(masses, points)


def _middles(edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    middles: npt.NDArray[np.float64] = (edges[1:] + edges[:-1]) / 2
    return middles
