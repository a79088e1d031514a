"""Read the files of regions of interest while a line is packed: checked, and oriented like their images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raybench.data.checks import ImageFacts, fit_mask, mask_drawn
from raybench.data.decode import decode_mask, encode_mask
from raybench.data.header import UPRIGHT, turned
from raybench.errors import LineError, RejectedImage

_SAID = "the mask"  # by functions that read masks
_ORIENTATIONS = range(1, 9)


@dataclass(frozen=True)
class RoiFile:
    """A file that marks a region of interest."""

    name: str
    """Its key or path."""
    data: bytes
    is_upright: bool = False
    """Whether it is oriented as its images are shown, like the regions that a line holds. Otherwise the rules of masks
    apply, see `checks.fit_mask`."""

    def check(self) -> None:
        """Raise LineError unless the file marks something, in an image of any size."""
        try:
            marks = self._drawn().any()
        except RejectedImage as error:
            raise LineError(f"the region of interest {self.name}: {_worded(error)}") from error
        if not marks:
            raise LineError(f"the region of interest {self.name} marks nothing: white is looked at, black is ignored")

    def is_of(self, roi: bytes) -> bool:
        """Return whether it marks the region of a line, a PNG, but for its orientation."""
        height, width = mask_drawn(roi).shape
        there, here = decode_mask(roi, height, width), self._drawn()
        return any(np.array_equal(turned(here, orientation), there) for orientation in _ORIENTATIONS)

    def _drawn(self) -> npt.NDArray[np.bool_]:
        return mask_drawn(self.data)


def fit_roi(files: Sequence[RoiFile], image: ImageFacts) -> bytes:
    """Return the region of interest of an image, the union of what the files mark, as a PNG of 0 and 255.

    Raises:
        RejectedImage: roi_size, roi_unreadable, roi_picture, or roi_empty if nothing is marked.
    """
    size = replace(image, highest=None, band=None)
    return _union(tuple(files), size)


@functools.lru_cache(maxsize=8)  # most lines have one region, and a few kinds of images
def _union(files: tuple[RoiFile, ...], image: ImageFacts) -> bytes:
    region = np.zeros((image.height, image.width), np.bool_)
    for file in files:
        try:
            region |= fit_mask(file.data, replace(image, orientation=UPRIGHT) if file.is_upright else image).mask
        except RejectedImage as error:
            detail = f"its region of interest {file.name}: {_worded(error)}"
            raise RejectedImage(error.reason.replace("mask_", "roi_"), detail) from error
    if not region.any():
        names = " and ".join(file.name for file in files)
        raise RejectedImage("roi_empty", f"its region of interest {names} marks nothing; white is looked at")
    return encode_mask(region)


def _worded(error: RejectedImage) -> str:
    return error.detail.replace(_SAID, "it")
