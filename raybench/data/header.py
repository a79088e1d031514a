"""What an image file says of itself, read without decoding its pixels: format, size, EXIF orientation."""

from __future__ import annotations

import io
import warnings
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from raybench.errors import RejectedImage

MAX_PIXELS = 2**27  # a line scan of 16k x 8k; three bytes each when decoded
UPRIGHT = 1
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_ORIENTATION = 274
_SWAPS_SIDES = 5  # and all above
_EXIF_MARKS = (b"Exif", b"eXIf")

P = TypeVar("P", bound=np.generic)

# What Pillow warns of (bombs, corrupt EXIF) is refused with a reason, or does no harm to the pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL")


def open_header(data: bytes) -> Image.Image:
    """The image, its pixels not yet decoded. Raises RejectedImage: unreadable, truncated or too_large."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImage("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise RejectedImage("unreadable", "is not a PNG, JPEG, BMP or TIFF image of 8 or 16 bits") from error
    except Exception as error:
        raise damaged(error) from error


def damaged(error: Exception) -> RejectedImage:
    """Decoders meet damage with errors of every kind, warnings included; none of them may stop a line."""
    return RejectedImage("truncated", f"the file is damaged or incomplete ({type(error).__name__}: {error})")


def is_tiff(data: bytes) -> bool:
    return data[:2] in (b"II", b"MM")


def orientation_of(data: bytes) -> int:
    """EXIF orientation, 1 to 8: see `turned`. 1 where the file says none, or none that can be read."""
    if not is_tiff(data) and not any(mark in data for mark in _EXIF_MARKS):
        return UPRIGHT
    try:
        with open_header(data) as image:
            return orientation_in(image)
    except RejectedImage:
        return UPRIGHT


def orientation_in(image: Image.Image) -> int:
    """As `orientation_of`, of an opened image. Orientation in XMP is not looked at: no common viewer does."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            found = image.tag_v2.get(_ORIENTATION)
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or b"")
            found = exif.get(_ORIENTATION)
    except Exception:
        return UPRIGHT
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def turned_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width once turned; turning back swaps the same sides."""
    return (width, height) if orientation >= _SWAPS_SIDES else (height, width)


def turned(pixels: npt.NDArray[P], orientation: int) -> npt.NDArray[P]:
    """(H, W, ...) as stored to (H', W', ...) as a viewer shows it; a view (EXIF 2.32, tag 274)."""
    if orientation >= _SWAPS_SIDES:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
