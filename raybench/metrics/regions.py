"""Recall of single defects: a region of a mask is found when its heat map exceeds the threshold anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz
from raybench.metrics.intervals import clopper_pearson
from raybench.metrics.masks import Mask
from raybench.metrics.numbers import Estimate, RegionRecall, Threshold

UNNAMED = "defect"  # type of defects whose images name none
# by size class, the least share of the image's pixels
SIZES: Mapping[str, float] = {"below 0.1 % of the image": 0.0, "0.1–1 %": 1e-3, "1 % and more": 1e-2}
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Regions:
    """Connected regions (8 neighbours) of anomalous pixels, sorted by image and number."""

    image_ids: npt.NDArray[np.str_]
    """(n,) str."""
    number: npt.NDArray[np.int64]
    """(n,) int64: position of the region in its image."""
    defect_types: npt.NDArray[np.str_]
    """(n,) str."""
    area_px: npt.NDArray[np.int64]
    """(n,) int64: pixels of the region."""
    image_px: npt.NDArray[np.int64]
    """(n,) int64: pixels of the image."""
    peaks: npt.NDArray[np.float32]
    """(n,) float32: highest value of the heat map in the region."""

    @classmethod
    def empty(cls) -> Regions:
        """No regions."""
        text, whole = np.empty(0, np.str_), np.empty(0, np.int64)
        return cls(text, whole, text, whole, whole, np.empty(0, np.float32))

    @classmethod
    def of(cls, image_id: str, defect_type: str, peaks: npt.NDArray[np.float32], mask: Mask) -> Regions:
        """Describe the regions of one image; `peaks` (r,) are the highest values of the heat map in them."""
        count = len(mask.areas)
        return cls(
            np.full(count, image_id),
            np.arange(count),
            np.full(count, defect_type or UNNAMED),
            mask.areas,
            np.full(count, mask.size),
            peaks,
        )

    def merge(self, *others: Regions) -> Regions:
        """Return all regions. Raises IntegrityError when an image occurs twice with different heat maps."""
        parts = [part for part in (self, *others) if len(part.number)]
        if not parts:
            return self
        whole = Regions(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Regions)))
        order = np.lexsort((whole.number, whole.image_ids))
        regions = whole._rows(order)
        ids, number = regions.image_ids, regions.number
        repeated = np.append(False, (ids[1:] == ids[:-1]) & (number[1:] == number[:-1]))
        again = np.flatnonzero(repeated)
        if (regions.peaks[again] != regions.peaks[again - 1]).any():
            raise IntegrityError("one image has two different heat maps")
        return regions._rows(np.flatnonzero(~repeated))

    def _rows(self, rows: npt.NDArray[np.intp]) -> Regions:
        return Regions(*(getattr(self, each.name)[rows] for each in fields(Regions)))

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        return npz.to_bytes("regions", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Regions:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        return cls(**npz.from_bytes("regions", _VERSION, data))


def region_recall(regions: Regions, threshold: Threshold) -> RegionRecall:
    """Compute the share of regions whose peak exceeds the threshold: of all, by defect type and by size.

    Intervals are Clopper-Pearson intervals that treat regions as independent.

    Args:
        regions: Regions of all images with masks.
        threshold: Threshold of heat-map values.
    """
    limit = threshold.value
    if limit is None:
        reason = f"no threshold for heat maps: {threshold.note}" if threshold.n else "no heat maps"
        return RegionRecall(Estimate(None, n=len(regions.number), reason=reason), {}, {})
    hits = regions.peaks > limit
    types = {str(name): _share(hits[regions.defect_types == name]) for name in np.unique(regions.defect_types)}
    edges = np.array([*SIZES.values(), np.inf])
    size = np.searchsorted(edges, regions.area_px / np.maximum(regions.image_px, 1), side="right") - 1
    sizes = {name: _share(hits[size == index]) for index, name in enumerate(SIZES) if (size == index).any()}
    return RegionRecall(_share(hits), types, sizes)


def _share(hits: npt.NDArray[np.bool_]) -> Estimate:
    count, n = int(np.sum(hits)), len(hits)
    return Estimate(count / n, *clopper_pearson(count, n), n) if n else Estimate(None, reason="no masks of defects")
