"""The anomalous pixels of an image, prepared once for all heat maps of it: indices, regions, surroundings.

The pixels outside the image's region of interest are neither normal nor anomalous: they are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from raybench.metrics.roi import Roi

CONNECTIVITY = 8
MARGIN = 0.03  # width of the surroundings of a defect, as a share of the image's shorter side

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Mask:
    """The anomalous pixels of one image. An index is a position in the flattened image, row by row."""

    height: int
    """Of the image, in pixels."""
    width: int
    """Of the image, in pixels."""
    pixels: Indices
    """(n,) int32, ascending: indices of the anomalous pixels."""
    regions: Indices
    """(n,) int32: number of the connected region (8 neighbours) that each anomalous pixel belongs to."""
    areas: npt.NDArray[np.int64]
    """(r,) int64: pixels of each region."""
    around: Indices
    """(m,) int32, ascending: indices of the normal pixels within 3 % of the shorter side of an anomalous one."""
    roi: Roi | None = None
    """The region of interest, which holds all of these pixels. None if all pixels of the image count."""

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], roi: Roi | None = None) -> Mask:
        """Prepare a mask (H, W), True where the image is anomalous, of which the part in `roi` counts."""
        height, width = mask.shape
        mask = mask if roi is None else mask & roi.inside
        pixels = np.flatnonzero(mask).astype(np.int32)
        if not len(pixels):
            return cls.empty(height, width, roi)
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=CONNECTIVITY)
        regions = labels.ravel()[pixels].astype(np.int32) - np.int32(1)
        margin = max(1, round(MARGIN * min(height, width)))
        near = cv2.dilate(mask.astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
        is_around = near.astype(bool) & ~mask
        around = np.flatnonzero(is_around if roi is None else is_around & roi.inside).astype(np.int32)
        areas = np.bincount(regions, minlength=count - 1).astype(np.int64)
        return cls(height, width, pixels, regions, areas, around, roi)

    @classmethod
    def empty(cls, height: int, width: int, roi: Roi | None = None) -> Mask:
        """Return the mask of an image without anomalous pixels."""
        none = np.empty(0, np.int32)
        return cls(height, width, none, none, np.empty(0, np.int64), none, roi)

    @property
    def size(self) -> int:
        """Number of pixels of the image."""
        return self.height * self.width

    @property
    def area(self) -> int:
        """Number of anomalous pixels."""
        return int(self.areas.sum())

    @property
    def normal(self) -> int:
        """Number of normal pixels."""
        return self.size - self.area - (self.roi.outside_px if self.roi else 0)

    def without_pixels(self) -> Mask:
        """Return the mask without indices, for what only needs areas and takes no memory to keep."""
        return replace(Mask.empty(self.height, self.width, self.roi), areas=self.areas)

    def not_normal(self) -> npt.NDArray[np.bool_] | None:
        """Return an array (H * W,), True where a pixel is anomalous or not counted. None if all pixels are normal."""
        if not len(self.pixels) and self.roi is None:
            return None
        found = np.zeros(self.size, np.bool_) if self.roi is None else ~self.roi.inside.ravel()
        found[self.pixels] = True
        return found
