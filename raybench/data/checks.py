"""Check, before an image is packed, that it can be trained on or scored. Checks are as cheap as its format allows."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from raybench.data.decode import Pixels, decode_deep, decode_mask_file, encode_mask
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

LARGE_MASK = 0.5  # share of the image above which a mask is suspected to be inverted
_HOT_PIXELS = 10_000  # one pixel in so many may be hot
_JPEG_SHRINK = 8
_JPEG_START = b"\xff\xd8\xff"
_PNG_DEPTH = 24  # offset of the byte with the bits per channel
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_TOO_DEEP = ("F", "I")
_LARGE_PIXELS = 2**24
# Many files are checked at once. Large images are decoded one at a time, as together they would take gigabytes.
_one_large = threading.Lock()


@dataclass(frozen=True)
class ImageFacts:
    """Properties of a checked image."""

    height: int
    """Pixels, oriented as EXIF says."""
    width: int
    """Pixels, oriented as EXIF says."""
    highest: int | None
    """Highest pixel value of a 16-bit image. None for 8 bits."""
    orientation: int = UPRIGHT
    """EXIF orientation, 1 to 8."""
    band: tuple[int, int] | None = None
    """Lowest and highest pixel value of a 16-bit image, dead and hot pixels left out: one in 10,000 at each end, and at
    least one. None for 8 bits."""


def check_image(data: bytes) -> ImageFacts:
    """Check that the file holds one complete image that can be decoded.

    Raises:
        RejectedImage: empty_file, unreadable, truncated, zero_size, too_large or several_images.
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
    height, width = pixels.shape[:2]
    if pixels.dtype != np.uint16:
        return ImageFacts(height, width, None, orientation)
    return ImageFacts(height, width, int(pixels.max()), orientation, _band(pixels))


def _band(pixels: Pixels) -> tuple[int, int]:
    darkest, brightest = pixels.min(axis=2).ravel(), pixels.max(axis=2).ravel()
    last = darkest.size - 1
    left_out = min(last, max(1, darkest.size // _HOT_PIXELS))
    low = np.partition(darkest, left_out)[left_out]
    return int(low), int(np.partition(brightest, last - left_out)[last - left_out])


@dataclass(frozen=True)
class FittedMask:
    """A mask that was checked against its image."""

    data: bytes
    """The bytes to pack: those of the file if `decode_mask` reads them right, otherwise a PNG of 0 and 255."""
    mask: npt.NDArray[np.bool_]
    """(H, W) bool, oriented like its image."""
    faint: int
    """Pixels above 0 that are not in the mask; 0 for JPEG, which has them everywhere."""


def fit_mask(data: bytes, image: ImageFacts) -> FittedMask:
    """Check a mask file and orient it like its image.

    A mask without an EXIF orientation whose size is that of the image before EXIF is applied was drawn on the stored
    pixels. It is turned with the image. Where both sizes are the same (a square image, or an orientation that mirrors
    or turns by 180°), the mask is taken to be drawn on the stored pixels.

    Raises:
        RejectedImage: mask_unreadable, mask_size or mask_picture.
    """
    size, orientation = _mask_header(data)
    image_size = image.height, image.width
    stored_size = turned_size(*image_size, image.orientation)
    drawn_on_stored = orientation == UPRIGHT != image.orientation and size == stored_size
    if size != image_size and not drawn_on_stored:
        raise RejectedImage(
            "mask_size",
            f"the mask has {size[0]}x{size[1]} pixels, its image {image.height}x{image.width} (height x width)",
        )
    file = decode_mask_file(data, *size)
    mask = turned(file.mask, image.orientation) if drawn_on_stored else file.mask
    is_jpeg = data.startswith(_JPEG_START)
    return FittedMask(
        data if file.is_plain and not drawn_on_stored else encode_mask(mask), mask, 0 if is_jpeg else file.faint
    )


def mask_marks(data: bytes) -> bool:
    """Return whether a mask file marks a pixel. Raises RejectedImage: mask_unreadable or mask_picture."""
    return bool(mask_drawn(data).any())


def mask_drawn(data: bytes) -> npt.NDArray[np.bool_]:
    """Decode a mask file of any size, (H, W) bool. Raises RejectedImage: mask_unreadable or mask_picture."""
    size, _ = _mask_header(data)
    return decode_mask_file(data, *size).mask


def large_mask(share: float) -> str:
    """Describe a mask that covers more than LARGE_MASK of its image."""
    if share == 1:
        return "its mask covers the whole image"
    return f"its mask covers {share:.1%} of the image; is it inverted (white where the part is good)?"


def _mask_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Read (height, width), as the mask's own EXIF orients it, and that orientation."""
    if not data:
        raise RejectedImage("mask_unreadable", "the mask file has no bytes")
    try:
        with open_header(data) as mask:
            _check_single(mask)
            width, height = mask.size
    except RejectedImage as error:
        raise RejectedImage("mask_unreadable", f"the mask: {error.detail}") from error
    orientation = orientation_of(data)
    # Pillow already swaps the sides of a TIFF.
    return (height, width) if is_tiff(data) else turned_size(height, width, orientation), orientation


def _check_single(image: Image.Image) -> None:
    """Reject files of several images. A camera's JPEG with a preview (MPO) counts as one image."""
    try:
        several = image.format in ("PNG", "TIFF") and bool(getattr(image, "is_animated", False))
    except Exception as error:
        raise damaged(error) from error
    if several:
        raise RejectedImage(
            "several_images", "the file holds several images (pages or frames); save each as a file of its own"
        )


def _check_whole(image: Image.Image, data: bytes) -> Pixels | None:
    """Check that no data is missing, and return the pixels if that needed a full decode.

    PNG: the CRC of every chunk is checked. Only 16-bit images are decoded, for their highest value.
    JPEG: decoded at an eighth of its size.
    Others have no checksum. They are decoded by Pillow too, as OpenCV fills missing pixels with black.
    """
    try:
        if image.format == "PNG":
            image.verify()
            if _PNG_END not in data:
                raise RejectedImage("truncated", "the file is damaged or incomplete (it has no end)")
            return _decode(data, image) if data[_PNG_DEPTH] > 8 else None
        if image.format in ("JPEG", "MPO"):
            image.draft("L", (max(1, image.width // _JPEG_SHRINK), max(1, image.height // _JPEG_SHRINK)))
            image.load()
            return None
        return _decode(data, image, with_pillow=True)
    except RejectedImage:
        raise
    except Exception as error:
        raise damaged(error) from error


def _decode(data: bytes, image: Image.Image, with_pillow: bool = False) -> Pixels:
    large = image.width * image.height >= _LARGE_PIXELS
    with _one_large if large else contextlib.nullcontext():
        if with_pillow:
            image.load()
            image.close()
        return decode_deep(data)
