"""Recall of defects, one by one: a region of a mask is found when the thresholded heat map touches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz
from raybench.metrics.intervals import clopper_pearson
from raybench.metrics.numbers import Estimate, RegionRecall, Threshold

CONNECTIVITY = 8
UNNAMED = "defect"  # of images without a defect type
# Shares of the image's pixels from which a region belongs to the next size.
SIZES: Mapping[str, float] = {"below 0.1 % of the image": 0.0, "0.1–1 %": 1e-3, "1 % and more": 1e-2}
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Regions:
    """Connected regions (8 neighbours) of anomalous pixels, sorted by image and place in it.

    image_ids, defect_types: (n,) str. number: (n,) int64, in its image. area_px, image_px: (n,) int64. peaks: (n,)
    float32, the highest value of the heat map inside.
    """

    image_ids: npt.NDArray[np.str_]
    number: npt.NDArray[np.int64]
    defect_types: npt.NDArray[np.str_]
    area_px: npt.NDArray[np.int64]
    image_px: npt.NDArray[np.int64]
    peaks: npt.NDArray[np.float32]

    @classmethod
    def empty(cls) -> Regions:
        text, whole = np.empty(0, np.str_), np.empty(0, np.int64)
        return cls(text, whole, text, whole, whole, np.empty(0, np.float32))

    @classmethod
    def of(
        cls, image_id: str, defect_type: str, heatmap: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]
    ) -> Regions:
        """heatmap, mask: (H, W) of one image."""
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=CONNECTIVITY)
        count -= 1  # without the background
        inside = labels[mask].astype(np.intp) - 1
        peaks = np.full(count, -np.inf, np.float32)
        np.maximum.at(peaks, inside, heatmap[mask])
        return cls(
            np.full(count, image_id),
            np.arange(count),
            np.full(count, defect_type or UNNAMED),
            np.bincount(inside, minlength=count),
            np.full(count, mask.size),
            peaks,
        )

    def merge(self, *others: Regions) -> Regions:
        """All together. Raises IntegrityError when an image's regions come twice and differ."""
        parts = [part for part in (self, *others) if len(part.number)]
        if not parts:
            return self
        whole = Regions(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Regions)))
        order = np.lexsort((whole.number, whole.image_ids))
        sorted_ = whole._at(order)
        ids, number = sorted_.image_ids, sorted_.number
        again = np.append(False, (ids[1:] == ids[:-1]) & (number[1:] == number[:-1]))
        twice = np.flatnonzero(again)
        if (sorted_.peaks[twice] != sorted_.peaks[twice - 1]).any():
            raise IntegrityError("one image has two different heat maps")
        return sorted_._at(np.flatnonzero(~again))

    def _at(self, rows: npt.NDArray[np.intp]) -> Regions:
        return Regions(*(getattr(self, each.name)[rows] for each in fields(Regions)))

    def to_bytes(self) -> bytes:
        return npz.to_bytes("regions", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Regions:
        """Raises IntegrityError."""
        return cls(**npz.from_bytes("regions", _VERSION, data))


def region_recall(regions: Regions, threshold: Threshold) -> RegionRecall:
    """The share of regions whose peak lies above a threshold for heat-map values: of all, by defect type and by size.

    Intervals are Clopper-Pearson's, each region taken as a draw of its own.
    """
    limit = threshold.value
    if limit is None:
        reason = f"no threshold for heat maps: {threshold.note}" if threshold.n else "no heat maps"
        return RegionRecall(Estimate(None, n=len(regions.number), reason=reason), {}, {})
    found = regions.peaks > limit
    types = {str(name): _share(found[regions.defect_types == name]) for name in np.unique(regions.defect_types)}
    edges = np.array([*SIZES.values(), np.inf])
    size = np.searchsorted(edges, regions.area_px / np.maximum(regions.image_px, 1), side="right") - 1
    sizes = {name: _share(found[size == at]) for at, name in enumerate(SIZES) if (size == at).any()}
    return RegionRecall(_share(found), types, sizes)


def _share(found: Sequence[bool] | npt.NDArray[np.bool_]) -> Estimate:
    hits, n = int(np.sum(found)), len(found)
    return Estimate(hits / n, *clopper_pearson(hits, n), n) if n else Estimate(None, reason="no masks of defects")
