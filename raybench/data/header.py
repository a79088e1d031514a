"""Format, size and EXIF orientation of an image file, read without decoding its pixels."""

from __future__ import annotations

import io
import warnings
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from raybench.errors import RejectedImage

MAX_PIXELS = 2**27  # a line scan of 16k x 8k; 400 MB when decoded to RGB
UPRIGHT = 1
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_ORIENTATION = 274  # EXIF tag
_SWAPS_SIDES = 5  # this orientation and all above swap height and width
_EXIF_MARKS = (b"Exif", b"eXIf")

P = TypeVar("P", bound=np.generic)

# Decompression bombs are rejected below; the rest of what Pillow warns of (corrupt EXIF) does not affect the pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL")


def open_header(data: bytes) -> Image.Image:
    """Open an image without decoding its pixels.

    Raises:
        RejectedImage: unreadable, truncated or too_large.
    """
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImage("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise RejectedImage("unreadable", "is not a PNG, JPEG, BMP or TIFF image of 8 or 16 bits") from error
    except Exception as error:
        raise damaged(error) from error


def damaged(error: Exception) -> RejectedImage:
    """Convert a decoder's error to a rejection. Decoders raise all kinds of errors for damaged files."""
    return RejectedImage("truncated", f"the file is damaged or incomplete ({type(error).__name__}: {error})")


def is_tiff(data: bytes) -> bool:
    return data[:2] in (b"II", b"MM")


def orientation_of(data: bytes) -> int:
    """Read the EXIF orientation, 1 to 8; see `turned`. 1 if the file has none, or none that can be read."""
    if not is_tiff(data) and not any(mark in data for mark in _EXIF_MARKS):
        return UPRIGHT
    try:
        with open_header(data) as image:
            return orientation_in(image)
    except RejectedImage:
        return UPRIGHT


def orientation_in(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image. XMP is ignored, as common viewers ignore it."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            value = image.tag_v2.get(_ORIENTATION)
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or b"")
            value = exif.get(_ORIENTATION)
    except Exception:
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def turned_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Compute (height, width) after `turned`, or before it: both directions swap the same sides."""
    return (width, height) if orientation >= _SWAPS_SIDES else (height, width)


def turned(pixels: npt.NDArray[P], orientation: int) -> npt.NDArray[P]:
    """Orient stored pixels as a viewer shows them (EXIF 2.32, tag 274).

    Args:
        pixels: (H, W, ...).
        orientation: EXIF orientation, 1 to 8. 1 changes nothing.

    Returns:
        A view of `pixels`: (W, H, ...) from orientation 5, otherwise (H, W, ...).
    """
    if orientation >= _SWAPS_SIDES:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
