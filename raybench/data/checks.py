"""Is this file an image that can be trained on or scored? Said before it is packed, as cheaply as its format allows."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image

from raybench.data.decode import Pixels, decode_deep, decode_mask, encode_mask
from raybench.data.header import (
    MAX_PIXELS,
    UPRIGHT,
    damaged,
    is_tiff,
    open_header,
    orientation_in,
    orientation_of,
    turned,
    turned_size,
)
from raybench.errors import RejectedImage

_JPEG_SHRINK = 8
_PNG_DEPTH = 24  # the byte that says how many bits a channel has
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TOO_DEEP = ("F", "I")
_LARGE_PIXELS = 2**24
# Many files are checked at once; decoded large images would add up to gigabytes.
_one_large = threading.Lock()


@dataclass(frozen=True)
class ImageFacts:
    """height, width: pixels, turned as EXIF says. highest: the highest value of a 16-bit image, None for 8 bits.
    orientation: EXIF's, 1 to 8."""

    height: int
    width: int
    highest: int | None
    orientation: int = UPRIGHT


def check_image(data: bytes) -> ImageFacts:
    """Facts of a whole, readable image.

    Raises RejectedImage: empty_file, unreadable, truncated, zero_size, too_large or several_images.
    """
    if not data:
        raise RejectedImage("empty_file", "the file has no bytes")
    with open_header(data) as image:
        width, height = image.size
        if not (width and height):
            raise RejectedImage("zero_size", f"the image has {height}x{width} pixels")
        if width * height > MAX_PIXELS:
            raise RejectedImage("too_large", f"{height}x{width} pixels are more than {MAX_PIXELS}")
        orientation = orientation_in(image)
        _check_single(image)
        if image.format == "TIFF" and image.mode in _TOO_DEEP:
            raise RejectedImage("unreadable", "pixels of 32 bits; 8 and 16 bit unsigned are read")
        pixels = _check_whole(image, data)
    if pixels is None:
        height, width = turned_size(height, width, orientation)
        return ImageFacts(height, width, None, orientation)
    highest = int(pixels.max()) if pixels.dtype == np.uint16 else None
    return ImageFacts(pixels.shape[0], pixels.shape[1], highest, orientation)


def fit_mask(data: bytes, image: ImageFacts) -> bytes:
    """The mask as it is packed: it lies on the image as EXIF turns it.

    Most are packed as they are. A mask that says no orientation of its own, and has the size that the image is
    stored with, was drawn on the pixels as stored: it is turned with the image and becomes a PNG. Where both sizes
    are the same (a square image, or one that is mirrored or upside down) that is what is taken for true.
    Raises RejectedImage: mask_unreadable or mask_size.
    """
    found, orientation = _mask_header(data)
    wanted = image.height, image.width
    stored = turned_size(*wanted, image.orientation)
    follows = orientation == UPRIGHT != image.orientation and found == stored
    if found != wanted and not follows:
        raise RejectedImage(
            "mask_size",
            f"the mask has {found[0]}x{found[1]} pixels, its image {wanted[0]}x{wanted[1]} (height x width)",
        )
    mask = decode_mask(data, *found)
    return encode_mask(turned(mask, image.orientation)) if follows else data


def _mask_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Height and width as its own EXIF turns it, and that orientation."""
    if not data:
        raise RejectedImage("mask_unreadable", "the mask file has no bytes")
    try:
        with open_header(data) as mask:
            _check_single(mask)
            width, height = mask.size
    except RejectedImage as error:
        raise RejectedImage("mask_unreadable", f"the mask: {error.detail}") from error
    orientation = orientation_of(data)
    # Pillow has already swapped the sides of a TIFF.
    return (height, width) if is_tiff(data) else turned_size(height, width, orientation), orientation


def _check_single(image: Image.Image) -> None:
    """One file is one image here. A camera's JPEG with a preview behind it (MPO) counts as one."""
    try:
        several = image.format in ("PNG", "TIFF") and bool(getattr(image, "is_animated", False))
    except Exception as error:
        raise damaged(error) from error
    if several:
        raise RejectedImage(
            "several_images", "the file holds several images (pages or frames); save each as a file of its own"
        )


def _check_whole(image: Image.Image, data: bytes) -> Pixels | None:
    """PNG: every chunk's CRC, to the last. JPEG: decoded at an eighth of its size. Others have no checksum: decoded in
    full, by two decoders, as OpenCV fills what is missing with black. 16 bits are decoded for their highest value."""
    try:
        if image.format == "PNG":
            image.verify()
            if _PNG_END not in data:
                raise RejectedImage("truncated", "the file is damaged or incomplete (it has no end)")
            return _decoded(data, image) if data[_PNG_DEPTH] > 8 else None
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (max(1, image.width // _JPEG_SHRINK), max(1, image.height // _JPEG_SHRINK)))
            image.load()
            return None
        return _decoded(data, image, twice=True)
    except RejectedImage:
        raise
    except Exception as error:
        raise damaged(error) from error


def _decoded(data: bytes, image: Image.Image, twice: bool = False) -> Pixels:
    large = image.width * image.height >= _LARGE_PIXELS
    with _one_large if large else contextlib.nullcontext():
        if twice:
            image.load()
            image.close()
        return decode_deep(data)
