"""Decode PNG, JPEG, BMP and TIFF of 8 or 16 bits, grey, colour or CMYK, oriented as EXIF says."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from raybench.data.header import UPRIGHT, is_tiff, orientation_of, turned
from raybench.errors import RejectedImage

Pixels = npt.NDArray[np.uint8 | np.uint16]

_MOST_CLASSES = 31  # highest value of a mask that numbers its classes
_WITH_ALPHA = (2, 4)  # channels
_PICTURE_SHARE, _PICTURE_LEVELS = 0.25, 32

# Tasks decode in parallel; OpenCV threads within each would compete for the same cores.
cv2.setNumThreads(1)
# OpenCV applies EXIF orientation to some formats, with some flags. It is switched off here; TIFF is always oriented.
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# With IMREAD_COLOR_RGB, OpenCV 5.0 mixes up the channels and pixels of 16-bit colour TIFF.
_TIFF_COLOUR = cv2.IMREAD_COLOR_BGR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_AS_STORED = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes, white_level: int = 255, black_level: int = 0) -> npt.NDArray[np.uint8]:
    """Decode an image to 8-bit RGB.

    Args:
        data: The bytes of an image file.
        white_level: Pixel value of 16-bit images that becomes 255.
        black_level: Pixel value of 16-bit images that becomes 0.

    Returns:
        (H, W, 3) uint8 RGB. Grey becomes three equal channels; transparency is dropped.

    Raises:
        RejectedImage: unreadable.
    """
    return eight_bit(decode_deep(data), white_level, black_level)


def eight_bit(pixels: Pixels, white_level: int = 255, black_level: int = 0) -> npt.NDArray[np.uint8]:
    """Convert pixels to uint8. 16-bit values are scaled so that `black_level` becomes 0 and `white_level` 255."""
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    return np.take(level_table(white_level, black_level), pixels)


@functools.lru_cache(maxsize=8)
def level_table(white_level: int, black_level: int) -> npt.NDArray[np.uint8]:
    """Return the 8-bit value of each 16-bit value, (65536,) uint8; see `eight_bit`."""
    scaled = np.clip(np.rint((np.arange(2**16) - black_level) * (255 / (white_level - black_level))), 0, 255)
    return np.asarray(scaled, np.uint8)


def decode_deep(data: bytes) -> Pixels:
    """Decode an image at its stored depth.

    Returns:
        (H, W, 3) RGB, uint8 or uint16.

    Raises:
        RejectedImage: unreadable.
    """
    return _decode(data, _TIFF_COLOUR)[..., ::-1] if is_tiff(data) else _decode(data, _COLOUR)


def is_grey(data: bytes) -> bool:
    """Return whether an image is stored with one channel. Raises RejectedImage: unreadable."""
    return _decode(data, _AS_STORED).ndim == 2


def decode_mask(data: bytes, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode the packed mask of an image of `height` x `width` pixels. `decode_mask_file` decodes a mask as it came.

    Returns:
        (H, W) bool, True where any colour channel is above 0. Transparency is ignored.

    Raises:
        RejectedImage: mask_unreadable, or mask_size if it has another size.
    """
    return np.ascontiguousarray(_colours(_decode_mask(data, height, width)).max(axis=2) > 0)


@dataclass(frozen=True)
class MaskFile:
    """A mask as people and tools draw it."""

    mask: npt.NDArray[np.bool_]
    """(H, W) bool."""
    is_plain: bool
    """Whether `decode_mask` gives the same, so that the file can be packed as it is."""
    faint: int
    """Pixels above 0 that are not in the mask."""


def decode_mask_file(data: bytes, height: int, width: int) -> MaskFile:
    """Decode a mask file of `height` x `width` pixels.

    A pixel is in the mask if one of its colours is above half of the mask's highest value. This drops the ringing of
    JPEG and halves the soft edges of drawing tools. Masks whose values are all small, as 0 and 1 or numbers of classes,
    hold every pixel above 0. If only the alpha channel differs between pixels, it is the mask; if the colours differ
    too, transparent pixels are not in the mask.

    Raises:
        RejectedImage: mask_unreadable, mask_size if it has another size, or mask_picture if it is no mask.
    """
    pixels = _decode_mask(data, height, width)
    colours = values = _colours(pixels).max(axis=2)
    alpha = pixels[..., -1]
    if pixels.shape[2] in _WITH_ALPHA and alpha.min() < alpha.max():
        is_painted = colours.min() < colours.max()
        values = np.where(_above_half(alpha), colours, np.zeros_like(colours)) if is_painted else alpha
    _check_no_picture(values)
    mask = _above_half(values)
    is_plain = bool(np.array_equal(mask, colours > 0))
    return MaskFile(mask, is_plain, int(((values > 0) & ~mask).sum()))


def _check_no_picture(values: Pixels) -> None:
    highest = int(values.max())
    between = values[(values > highest // 4) & (values < highest - highest // 4)]
    if len(between) > _PICTURE_SHARE * values.size and len(np.unique(between)) > _PICTURE_LEVELS:
        share = len(between) / values.size
        raise RejectedImage("mask_picture", f"{share:.0%} of its pixels are neither dark nor bright; is it a picture?")


def _above_half(values: Pixels) -> npt.NDArray[np.bool_]:
    highest = int(values.max())
    return np.ascontiguousarray(values > (highest / 2 if highest > _MOST_CLASSES else 0))


def _colours(pixels: Pixels) -> Pixels:
    """Drop the alpha channel."""
    return pixels[..., : 1 if pixels.shape[2] <= 2 else 3]


def _decode_mask(data: bytes, height: int, width: int) -> Pixels:
    """Decode all channels of a mask, (H, W, 1 to 4)."""
    try:
        pixels = _decode(data, _AS_STORED)
    except RejectedImage as error:
        raise RejectedImage("mask_unreadable", error.detail) from error
    if pixels.shape[:2] != (height, width):
        size = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise RejectedImage("mask_size", f"the mask has {size} pixels, its image {height}x{width} (height x width)")
    return np.atleast_3d(pixels)


def encode_mask(mask: npt.NDArray[np.bool_]) -> bytes:
    """Encode an (H, W) bool mask as an 8-bit PNG of 0 and 255."""
    _, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    return data.tobytes()


def _decode(data: bytes, flags: int) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise RejectedImage("unreadable", f"cannot be decoded: {error.err}") from error
    if pixels is None:
        raise RejectedImage("unreadable", "cannot be decoded as PNG, JPEG, BMP or TIFF")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise RejectedImage("unreadable", f"pixels are {pixels.dtype}; 8 and 16 bit unsigned are read")
    orientation = UPRIGHT if is_tiff(data) else orientation_of(data)
    return turned(cast(Pixels, pixels), orientation)
