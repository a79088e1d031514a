"""Pictures for the report: an image beside its heat map, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

LONGEST_SIDE = 320
_JPEG_QUALITY = 82
_COLOURS = cv2.COLORMAP_INFERNO  # perceptually even, and readable with every kind of colour vision
_MASK_COLOUR = (64, 220, 255)  # RGB
_STRONGEST = 0.75
_NO_SPAN = 1e-30  # if all OK images have the same heat, everything hotter is bright

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One image of the report."""

    line: str
    image_id: str
    label: str
    excess: Mapping[str, float]
    """By model, see `analysis.flags`."""
    flagged_by: tuple[str, ...]
    model: str
    """The model that the heat map is of."""
    image: Rgb
    """(H, W, 3) uint8 RGB."""
    heatmap: npt.NDArray[np.float32] | None
    """(H, W) float32. None for a model without heat maps."""
    mask: npt.NDArray[np.bool_] | None
    """(H, W) bool. None without a mask."""
    heat_low: float | None
    """The median heat of OK images."""
    heat_high: float | None
    """The highest heat of OK images."""
    defect_type: str = ""
    """Empty if unknown."""

    def image_uri(self) -> str:
        """Return the image, made small, with the outline of its mask."""
        return _uri(_outlined(_small(self.image), self.mask))

    def overlay_uri(self) -> str:
        """Return the heat map over the image, empty without one. Pixels no hotter than OK images stay clear."""
        if self.heatmap is None or self.heat_low is None or self.heat_high is None:
            return ""
        image = _small(self.image)
        heat = cv2.resize(self.heatmap, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        return _uri(_outlined(overlay(image, heat.astype(np.float32), self.heat_low, self.heat_high), self.mask))


def overlay(image: Rgb, heat: npt.NDArray[np.float32], low: float, high: float) -> Rgb:
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


def _small(image: Rgb) -> Rgb:
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _outlined(image: Rgb, mask: npt.NDArray[np.bool_] | None) -> Rgb:
    if mask is None or not mask.any():
        return image
    small = cv2.resize(mask.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_AREA)
    contours, _ = cv2.findContours((small > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), contours, -1, _MASK_COLOUR, 1).astype(np.uint8)


def _uri(image: Rgb) -> str:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
