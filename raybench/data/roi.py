"""Apply the region of interest of an image: to its pixels before a detector sees them, and to its heat map after."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from raybench.data.decode import decode_mask
from raybench.data.geometry import GREY, InputFit, box_of
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, RejectedImage
from raybench.metrics.roi import Roi
from raybench.store import Store

Bools = npt.NDArray[np.bool_]


def roi_of(row: ImageRow) -> Roi | None:
    """Return the region of interest of an image. None if all of it is looked at.

    Raises IntegrityError if it cannot be decoded or is empty, as packing never writes it.
    """
    if row.roi is None:
        return None
    try:
        return _decoded(row.roi, row.height, row.width)
    except RejectedImage as error:
        raise IntegrityError(f"{row.image_id} of {row.line}: its region of interest: {error.detail}") from error


@functools.lru_cache(maxsize=8)  # most lines have one region
def _decoded(data: bytes, height: int, width: int) -> Roi:
    inside = decode_mask(data, height, width)
    if not inside.any():
        raise RejectedImage("roi_empty", "it marks nothing")
    return Roi.of(inside)


def fill_outside(image: npt.NDArray[np.uint8], roi: Roi | None) -> npt.NDArray[np.uint8]:
    """Return an image whose pixels outside its region of interest are GREY, so that nothing there can matter.

    Args:
        image: (H, W, 3) uint8 RGB.
        roi: Its region. None: the image is returned as it is.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return image if roi is None else np.where(roi.inside[..., np.newaxis], image, np.uint8(GREY))


@functools.lru_cache(maxsize=64)
def kept_in_network(roi: Roi, fit: InputFit) -> Bools:
    """Return the pixels of a network's input that a heat map inside the region depends on.

    They are those that show some of the region, and their neighbours, which `geometry.to_source` interpolates.

    Returns:
        (fit.height, fit.width) bool, read-only.
    """
    box = box_of(fit, roi.height, roi.width)
    share: npt.NDArray[Any] = roi.inside.astype(np.float32)
    # Each axis by itself: bilinear interpolation of an axis that shrinks passes over small regions.
    for size, shrinks in (
        ((box.width, roi.height), box.width <= roi.width),
        ((box.width, box.height), box.height <= roi.height),
    ):
        share = cv2.resize(share, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    near = cv2.dilate((share > 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    kept = np.zeros((fit.height, fit.width), np.bool_)
    kept[box.top : box.top + box.height, box.left : box.left + box.width] = near
    kept.flags.writeable = False
    return kept


def level_outside(heatmap: npt.NDArray[np.float32], kept: Bools | None) -> npt.NDArray[np.float32]:
    """Return a heat map (H, W) whose pixels that are not kept have the lowest value of the others."""
    return heatmap if kept is None else np.where(kept, heatmap, heatmap[kept].min())


def peak(heatmap: npt.NDArray[np.float32], kept: Bools) -> float:
    """Return the highest value of a heat map (H, W) among the pixels that are kept."""
    return float(heatmap[kept].max())


def heat_inside(heatmap: npt.NDArray[np.float32], row: ImageRow) -> npt.NDArray[np.float32]:
    """Return the heat map (H, W) of an image, at its size, with the lowest value of its region outside of it."""
    roi = roi_of(row)
    return level_outside(heatmap, None if roi is None else roi.inside)


def is_outside(row: ImageRow, mask: bytes) -> bool:
    """Return whether a mask of an image marks pixels outside of its region of interest alone."""
    roi = roi_of(row)
    if roi is None:
        return False
    marked = decode_mask(mask, row.height, row.width)
    return bool(marked.any()) and not (marked & roi.inside).any()


def shared_roi(lines: Store, manifest: Manifest) -> bytes | None:
    """Return the region of interest that all images of a line have, a PNG. None if there is no such region.

    Raises:
        IntegrityError: A shard is damaged.
        StoreError: The store cannot be read.
    """
    if not (manifest.roi and manifest.roi.shared):
        return None
    return next(read_rows(lines, manifest.shards[0], images=False)).roi
