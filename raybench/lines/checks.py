"""Is this file an image that can be trained on or scored? Said before it is packed, as cheaply as its format allows."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from raybench.errors import RejectedImage
from raybench.lines.decode import decode_mask, highest_pixel

MAX_PIXELS = 2**27  # a line scan of 16k x 8k; three bytes each when decoded
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_JPEG_SHRINK = 8

# What Pillow warns of (bombs, corrupt EXIF) is refused below with a reason, or does no harm to the pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL")


@dataclass(frozen=True)
class ImageFacts:
    """height, width: pixels. highest: the highest value of a 16-bit image, None for 8 bits."""

    height: int
    width: int
    highest: int | None


def check_image(data: bytes) -> ImageFacts:
    """Facts of a whole, readable image.

    Raises RejectedImage: empty_file, unreadable, truncated, zero_size or too_large.
    """
    if not data:
        raise RejectedImage("empty_file", "the file has no bytes")
    with _opened(data) as image:
        width, height = image.size
        if not (width and height):
            raise RejectedImage("zero_size", f"the image has {height}x{width} pixels")
        if width * height > MAX_PIXELS:
            raise RejectedImage("too_large", f"{height}x{width} pixels are more than {MAX_PIXELS}")
        deep = image.mode.startswith(("I", "F"))
        _check_whole(image, data, deep)
    return ImageFacts(height, width, highest_pixel(data) if deep else None)


def check_mask(data: bytes, height: int, width: int) -> None:
    """Raises RejectedImage: mask_unreadable or mask_size."""
    if not data:
        raise RejectedImage("mask_unreadable", "the mask file has no bytes")
    try:
        with _opened(data) as mask:
            found = mask.size
    except RejectedImage as error:
        raise RejectedImage("mask_unreadable", f"the mask {error.detail}") from error
    if found != (width, height):
        size = f"{found[1]}x{found[0]}"
        raise RejectedImage("mask_size", f"the mask has {size} pixels, its image {height}x{width} (height x width)")
    decode_mask(data, height, width)


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImage("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise RejectedImage("unreadable", "is not a PNG, JPEG, BMP or TIFF image") from error
    except Exception as error:
        raise _damaged(error) from error


def _check_whole(image: Image.Image, data: bytes, deep: bool) -> None:
    """PNG: every chunk's CRC. JPEG: decoded at an eighth of its size. Others have no checksum: decoded in full."""
    try:
        if image.format == "PNG":
            image.verify()
        elif image.format == "JPEG":
            image.draft("L", (image.width // _JPEG_SHRINK, image.height // _JPEG_SHRINK))
            image.load()
        elif not deep:
            highest_pixel(data)
    except RejectedImage:
        raise
    except Exception as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> RejectedImage:
    """Decoders meet damage with errors of every kind, warnings included; none of them may stop a line."""
    return RejectedImage("truncated", f"the file is damaged or incomplete ({type(error).__name__}: {error})")
