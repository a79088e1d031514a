"""Pictures for the page: an image, the outline of its mask, and the heat maps of all models.

Heat maps are grey: colour, opacity and "above the threshold only" are filters of the page. The heat maps of one image
lie below each other in one picture, the strip. Of further images both lie in files beside the page.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from raybench.metrics.roi import Roi
from raybench.metrics.small_maps import small_size

FILES = "files"
"""Folder of the pictures beside the page."""
LONGEST_SIDE = 320
THUMBNAIL_SIDE = 112
HEAT_EDGE = 2
"""Rows above and below each heat map of a strip that repeat its edge, so that smoothing mixes no two maps."""
_QUALITY, _LOSSLESS = 75, 101
_STEP = 4  # of heat codes in strips
_COLOURS = cv2.COLORMAP_INFERNO  # perceptually even, and readable with every kind of colour vision
_STRONGEST = 0.75
_NO_SPAN = 1e-30  # if all OK images have the same heat, everything hotter is bright
_POINTS, _OUTLINES = 48, 40
_HATCH_PX = 8  # from stripe to stripe

Rgb = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One image as a model sees it, drawn small."""

    model: str
    codes: npt.NDArray[np.uint8]
    """(h, w) uint8, see `metrics.small_maps`."""
    limit: int | None
    """Heat code of the model's pixel threshold. None without one."""

    @property
    def peak(self) -> int:
        """Highest heat code."""
        return int(self.codes.max())


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the report."""

    line: str
    image_id: str
    label: str
    excess: Mapping[str, float]
    """By model, see `analysis.flags`."""
    image: Rgb
    """(H, W, 3) uint8 RGB, made small."""
    outline: str = ""
    """Of its mask, see `outline_path`. Empty without a mask."""
    maps: tuple[HeatMap, ...] = ()
    """Of the models whose heat maps are shown, all of one size."""
    defect_type: str = ""
    """Empty if unknown."""
    has_roi: bool = False
    """Whether it has a region of interest, outside of which it is hatched."""
    sha256: str = ""
    """Hex digest of the image file. Empty if unknown."""
    is_thumbnail: bool = False
    """Whether it is only shown small, in the queue."""
    is_beside: bool = False
    """Whether its pixels are not in the page but in files beside it."""

    @property
    def image_uri(self) -> str:
        """The image."""
        return self._uri(self._image)

    @property
    def strip_uri(self) -> str:
        """The heat maps below each other; empty without any."""
        return self._uri(self._strip) if self.maps else ""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What lies beside the page, by path. Empty if all is in the page."""
        return {_path(data): data for data in (self._image, self._strip) if data} if self.is_beside else {}

    @functools.cached_property
    def _image(self) -> bytes:
        return _webp(self.image)

    @functools.cached_property
    def _strip(self) -> bytes:
        """Lossless, as codes are compared with thresholds."""
        if not self.maps:
            return b""
        edge = ((HEAT_EDGE, HEAT_EDGE), (0, 0))
        return _webp(np.vstack([np.pad(_coarse(each), edge, mode="edge") for each in self.maps]), _LOSSLESS)

    def _uri(self, data: bytes) -> str:
        return _path(data) if self.is_beside else _data_uri(data)


def hatched(image: Rgb, roi: Roi | None) -> Rgb:
    """Return an image with what lies outside of its region of interest dark and hatched.

    Args:
        image: (h, w, 3) uint8 RGB, of the region's size or made small.
        roi: The region. None: the image is returned as it is.
    """
    if roi is None:
        return image
    height, width = image.shape[:2]
    inside = cv2.resize(roi.inside.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) >= 0.5
    rows, columns = np.ogrid[:height, :width]
    stripes = ((rows + columns) % _HATCH_PX < _HATCH_PX // 4)[..., np.newaxis]
    dark = image // 4 + np.where(stripes, np.uint8(64), np.uint8(24))
    shown: Rgb = np.where(inside[..., np.newaxis], image, dark).astype(np.uint8)
    return shown


def outline_path(mask: npt.NDArray[np.bool_]) -> str:
    """Return the outlines of a mask's largest regions as a path in a square of 1000 units.

    Args:
        mask: (H, W) bool.
    """
    height, width = small_size(mask.shape[0], mask.shape[1], LONGEST_SIDE)
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    found, _ = cv2.findContours((covered > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    paths = []
    for contour in sorted(found, key=cv2.contourArea, reverse=True)[:_OUTLINES]:
        points = contour[:, 0]
        points = points[np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int)]
        places = np.rint((points + 0.5) / (width, height) * 1000).astype(int)
        paths.append("M" + "L".join(f"{x} {y}" for x, y in places.tolist()) + "Z")
    return "".join(paths)


def overlay(image: Rgb, heat: Heat, low: float, high: float) -> Rgb:
    """Draw a heat map over a grey copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (H, W) float32.
        low: Heat from which a pixel is coloured: the median of OK images.
        high: Heat at which colour and opacity are half of their maximum: the highest of OK images.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = np.clip((heat - low) / max(2 * (high - low), _NO_SPAN), 0, 1)
    levels = np.rint(share * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, _COLOURS), cv2.COLOR_BGR2RGB)
    opacity = (share * _STRONGEST)[..., np.newaxis]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed: Rgb = np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)
    return mixed


def image_uri(image: Rgb, roi: Roi | None = None) -> str:
    """Return an image, made small and hatched outside of its region of interest."""
    return uri(hatched(shrink(image), roi))


def overlay_uri(image: Rgb, heat: Heat, low: float, high: float, roi: Roi | None = None) -> str:
    """Return a heat map over an image, made small and hatched. The arguments are those of `overlay` and `hatched`."""
    small = shrink(image)
    resized = cv2.resize(heat, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    return uri(hatched(overlay(small, resized.astype(np.float32), low, high), roi))


def colour_tables(stops: int = 17) -> Sequence[str]:
    """Return red, green and blue of the colours of heat, as tables for an SVG filter."""
    levels = np.rint(np.linspace(0, 255, stops)).astype(np.uint8).reshape(-1, 1)
    colours = cv2.applyColorMap(levels, _COLOURS)[:, 0, ::-1] / 255
    return [" ".join(f"{value:.3f}" for value in colours[:, channel]) for channel in range(3)]


def shrink(image: Rgb, longest: int = LONGEST_SIDE) -> Rgb:
    """Return an image made so small that no side is longer than `longest`."""
    height, width = small_size(image.shape[0], image.shape[1], longest)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def _coarse(heat: HeatMap) -> npt.NDArray[np.uint8]:
    """Return codes in steps, so that lossless pictures stay small. No code crosses the limit."""
    start = ((heat.limit or 0) + 1) % _STEP
    steps = (heat.codes.astype(np.int64) - start) // _STEP * _STEP + start
    return np.maximum(steps, 0).astype(np.uint8)


def uri(image: npt.NDArray[np.uint8]) -> str:
    return _data_uri(_webp(image))


def _webp(image: npt.NDArray[np.uint8], quality: int = _QUALITY) -> bytes:
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()


def _data_uri(data: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _path(data: bytes) -> str:
    """Where a picture lies beside the page. The name is that of its bytes, so browsers may keep it for ever."""
    return f"{FILES}/{hashlib.sha256(data).hexdigest()[:20]}.webp"
