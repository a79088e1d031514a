"""Streaming pixel metrics of heat maps: memory grows by about a kilobyte per image, not with its pixels.

The metrics are computed from one `Sketch` over all pixels. Their intervals come from a bootstrap over images, because
the pixels of an image are not independent. For it, each image is summarised by the quantiles of its normal pixels, of
its anomalous pixels and of its regions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from raybench.metrics import curves, npz
from raybench.metrics.intervals import Indices, bootstrap, fraction_interval, group_numbers
from raybench.metrics.masks import Mask
from raybench.metrics.numbers import Estimate
from raybench.metrics.sketch import Histogram, Keys, Sketch, ascending, ordered_keys, shift_for, tabulate

LIMIT, STRICT_LIMIT = 0.3, 0.05
PIMO_LOW, PIMO_HIGH = 1e-5, 1e-4
_PIMO_REACH = 20.0  # a resample may give the images with the highest pixels a small weight
SUMMARY_POINTS = 64
SUMMARISED_IMAGES = 2000
_VERSION = 2
NORMAL, ANOMALOUS, REGION, IMAGE, CLEAN = range(5)
COLUMNS = 5
ONE = 2**40  # weight of a whole region or image in fixed point: sums are exact, so their order does not matter
_BINS = 256  # of the bootstrap
STEPS, LEAST_STEPS = 2**14, 2**10  # buckets over the range of an image's pixels; least number of occupied ones
# Share of an image's pixels per point of its summary. It is even for defects. For normal pixels it is finer towards
# the top, which determines small false-positive rates.
_EVEN = np.linspace(0, 1, SUMMARY_POINTS + 1)
_TOP = 1 - (1 - _EVEN) ** 3
_SHARES = np.stack([np.diff(_TOP), np.diff(_EVEN), np.diff(_EVEN)])  # (3, P)
_TOP_MIDDLES, EVEN_MIDDLES = ((edges[1:] + edges[:-1]) / 2 for edges in (_TOP, _EVEN))

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelMap:
    """The heat map of one image with its mask."""

    image_id: str
    """Id of the image."""
    heatmap: npt.NDArray[np.float32]
    """(H, W) float32."""
    mask: Mask
    """Where the image is anomalous."""


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
class Summary:
    """Quantiles of one image's normal pixels, anomalous pixels and regions."""

    masses: Floats
    """(3,) float64: number of normal pixels, of anomalous pixels and of regions."""
    points: Keys
    """(3, P) uint32: keys at P quantiles of each."""


class PixelSketch:
    """Counts of the pixels added so far, from which all pixel metrics are computed.

    Merging is exact, and the order of images and sketches does not matter.
    """

    def __init__(self, sketch: Sketch, summaries: dict[str, Summary]) -> None:
        self._sketch = sketch
        self._summaries = summaries
        self._trim()

    @classmethod
    def empty(cls) -> PixelSketch:
        """A sketch without images."""
        return cls(Sketch.empty(COLUMNS), {})

    def add(self, maps: Sequence[PixelMap], threads: int = 1) -> None:
        """Count the pixels of some images, all of them or, after an exception, none.

        Args:
            maps: Heat maps with masks.
            threads: Number of threads; each counts one image at a time.

        Raises:
            ValueError: A heat map contains NaN.
        """
        whole, summaries = self._sketch, {}
        for image in maps[:1]:  # it tells the others how wide buckets are
            sketches, summaries[image.image_id] = _count(image, whole.shift)
            whole = whole.merge(*sketches)
        count = functools.partial(_count, shift=whole.shift)
        with ThreadPoolExecutor(threads) as pool:
            counted = (pool.map if threads > 1 else map)(count, maps[1:])
            for image, (sketches, summary) in zip(maps[1:], counted, strict=True):
                whole, summaries[image.image_id] = whole.merge(*sketches), summary
        self._sketch = whole
        self._summaries |= summaries
        self._trim()

    def merge(self, other: PixelSketch) -> None:
        """Add the counts of another sketch."""
        self._sketch = self._sketch.merge(other._sketch)
        self._summaries |= other._summaries
        self._trim()

    def _trim(self) -> None:
        """Keep a bounded sample of summaries, chosen by hash so that it does not depend on their order."""
        if len(self._summaries) > SUMMARISED_IMAGES:
            kept = sorted(self._summaries, key=lambda name: hashlib.sha256(name.encode()).digest())
            self._summaries = {name: self._summaries[name] for name in kept[:SUMMARISED_IMAGES]}

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
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
        summaries = {name: Summary(masses, points) for name, masses, points in rows}
        return cls(Sketch(int(arrays["shift"]), arrays["low"], arrays["high"], arrays["columns"]), summaries)

    def evaluate(
        self, groups: Mapping[str, str] | None = None, seed: int = 0, *, intervals: bool = True
    ) -> PixelQuality:
        """Compute the metrics.

        Args:
            groups: Group of each image by image_id, resampled as a whole; each image is its own if None.
            seed: Seed of the resamples.
            intervals: Whether to compute intervals.
        """
        columns = self._sketch.columns[::-1].T.astype(np.float64)  # (5, K), highest scores first
        images = len(self._summaries)
        if not columns[ANOMALOUS].sum() or not columns[NORMAL].sum():
            if columns[ANOMALOUS].sum():
                reason = "no normal pixels"
            else:
                reason = "no masks of anomalous pixels" if images else "no masks"
            return PixelQuality(*[Estimate(None, n=images, reason=reason)] * len(fields(PixelQuality)))
        values = _metrics(columns[NORMAL], columns[ANOMALOUS], columns[REGION], self._sketch.tied[::-1])
        offsets = self._offsets(groups, seed) if intervals else [None] * len(values)
        auroc, ap, f1, pro, pro_05 = map(_estimate, values.tolist(), offsets, [images] * len(values))
        return PixelQuality(auroc, ap, f1, pro, pro_05, self._aupimo(columns, groups, seed, intervals))

    def _offsets(self, groups: Mapping[str, str] | None, seed: int) -> Floats:
        """Return each metric of resamples of the images, minus that of all images as they are summarised: (5, B)."""
        rows, names = self._rows(), np.array(sorted(self._summaries), np.str_)
        is_ng = np.array([self._summaries[name].masses[ANOMALOUS] > 0 for name in names])
        # Resampled apart: the fewer images a class has, the wider its weights must be.
        classes = [members for members in (~is_ng, is_ng) if members.any()]
        parts = [rows[members].reshape(np.count_nonzero(members), -1) for members in classes]
        strata = [_numbers(names[members].tolist(), groups) for members in classes]

        def statistic(*drawn: Floats) -> Floats:
            sums = sum(weights @ part for weights, part in zip(drawn, parts, strict=True))
            return _metrics(*np.moveaxis(sums.reshape(-1, 3, rows.shape[-1]), 1, 0))

        whole = statistic(*(np.ones((1, len(part))) for part in parts))
        return bootstrap(strata, statistic, seed, cells=20 * rows.shape[-1]) - whole

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

    def _aupimo(self, columns: Floats, groups: Mapping[str, str] | None, seed: int, intervals: bool) -> Estimate:
        clean, needed = columns[CLEAN].sum(), round(1 / PIMO_LOW)
        names = [name for name, summary in sorted(self._summaries.items()) if summary.masses[ANOMALOUS]]
        if clean < needed:
            reason = f"AUPIMO needs {needed} pixels of OK images, there are {int(clean)}"
            return Estimate(None, n=len(names), reason=reason)
        value = curves.log_area(curves.shares(columns[CLEAN]), curves.shares(columns[IMAGE]), PIMO_LOW, PIMO_HIGH)
        ok = [name for name, summary in sorted(self._summaries.items()) if not summary.masses[ANOMALOUS]]
        if not intervals or not names or not ok:
            return Estimate(value, n=len(names))
        keys, masses, recalls = self._top_keys(ok, names)
        false_rates = np.geomspace(PIMO_LOW, PIMO_HIGH, SUMMARY_POINTS)
        totals = np.array([self._summaries[name].masses[NORMAL] for name in ok])

        def statistic(of_ok: Floats, of_ng: Floats) -> Floats:
            """Average the recall at the thresholds that resampled OK images set, over resampled anomalous ones."""
            false = np.cumsum(of_ok[:, keys] * masses, axis=1) / (of_ok @ totals)[:, np.newaxis]
            recall = of_ng @ recalls / len(names)
            at = np.stack([(false < rate).sum(axis=1) for rate in false_rates], axis=1).clip(max=len(keys) - 1)
            mean: Floats = np.take_along_axis(recall, at, 1).mean(axis=1)
            return mean

        whole = statistic(np.ones((1, len(ok))), np.ones((1, len(names))))
        strata = _numbers(ok, groups), _numbers(names, groups)
        samples = bootstrap(strata, statistic, seed, cells=4 * len(keys))
        # few OK images set thresholds too low, so the number is too large
        return Estimate(value, *fraction_interval(value, samples - whole, reflected=True), len(names))

    def _top_keys(self, ok: Sequence[str], ng: Sequence[str]) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
        """Return the highest points of OK images, as many as thresholds of AUPIMO may need in any resample.

        Returns:
            (K,) number of the image of each point, highest first; (K,) its mass in pixels; and (ng, K) the share of
            each anomalous image at or above it.
        """
        points = np.stack([self._summaries[name].points[NORMAL] for name in ok])
        mass = np.array([self._summaries[name].masses[NORMAL] for name in ok])[:, np.newaxis] * _SHARES[NORMAL]
        order = np.argsort(points, axis=None)[::-1]
        count = int((np.cumsum(mass.ravel()[order]) < _PIMO_REACH * PIMO_HIGH * mass.sum()).sum()) + 1
        top = order[:count]
        limits = points.ravel()[top]
        found = np.stack([np.sort(self._summaries[name].points[ANOMALOUS]) for name in ng])
        above = [SUMMARY_POINTS - np.searchsorted(row, limits) for row in found]
        return top // SUMMARY_POINTS, mass.ravel()[top], np.stack(above) / SUMMARY_POINTS


def _numbers(names: Sequence[str], groups: Mapping[str, str] | None) -> Indices:
    return group_numbers(np.array([name if groups is None else groups[name] for name in names], np.str_))


def _estimate(value: float, offsets: Floats | None, n: int) -> Estimate:
    return Estimate(value, n=n) if offsets is None else Estimate(value, *fraction_interval(value, offsets), n)


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


def _count(image: PixelMap, shift: int) -> tuple[list[Sketch], Summary]:
    """Return sketches of an image's normal and anomalous pixels, in buckets of at most `shift`, and its summary."""
    mask, heat = image.mask, image.heatmap.ravel()
    points = np.zeros((3, SUMMARY_POINTS), np.uint32)
    sketches = []
    if mask.normal:
        histogram, points[NORMAL] = _count_normal(ordered_keys(heat, mask.not_normal()), shift)
        counted = (NORMAL,) if len(mask.pixels) else (NORMAL, CLEAN)
        sketches.append(Sketch.counted(histogram, counted, COLUMNS))
    if len(mask.pixels):
        keys = ordered_keys(heat[mask.pixels])
        order = ascending(keys)
        weights = (ONE // mask.areas)[mask.regions][order]
        columns = np.zeros((len(keys), COLUMNS), np.int64)
        columns[:, ANOMALOUS], columns[:, REGION], columns[:, IMAGE] = 1, weights, ONE // len(keys)
        sketches.append(Sketch.ascending(keys[order], columns, shift))
        points[ANOMALOUS] = keys[order][(EVEN_MIDDLES * len(keys)).astype(np.intp)]
        summed = np.cumsum(weights)
        points[REGION] = keys[order][np.searchsorted(summed, EVEN_MIDDLES * summed[-1])]
    return sketches, Summary(masses(mask), points)


def masses(mask: Mask) -> Floats:
    """Return the number of normal pixels, of anomalous pixels and of regions, (3,) float64."""
    regions = int(((ONE // mask.areas) * mask.areas).sum()) / ONE
    return np.array([mask.normal, mask.area, regions], np.float64)


def normal_ranks(count: int) -> npt.NDArray[np.int64]:
    """Return the ranks (P,) of the normal pixels that summarise an image with so many of them."""
    return (_TOP_MIDDLES * count).astype(np.int64)


def _count_normal(keys: Keys, shift: int) -> tuple[Histogram, Keys]:
    """Count (N,) normal pixels in buckets of at most `shift`.

    Returns:
        The histogram, and P quantiles, finer towards the top, each exact to one of at least LEAST_STEPS buckets.
    """
    step = shift_for(int(keys.min()), int(keys.max()), STEPS)
    histogram = tabulate(keys, min(shift, step))
    steps = histogram.coarser(step)
    if step and len(steps.low) < LEAST_STEPS:
        steps = histogram if histogram.shift == 0 else tabulate(keys, 0)
    return histogram, steps.low[np.searchsorted(np.cumsum(steps.counts), normal_ranks(len(keys)), side="right")]
