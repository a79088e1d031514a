"""How an image of any size meets a network of one size, and how a heat map finds exactly back.

native     the image's own aspect, at about a pixel budget: resized to fit inside the network's input, which is
           rounded up to the network's stride; what is left is filled by reflection
letterbox  the same into a square, filled with grey
squash     stretched to a square: the aspect is lost
tile       as native, for large images: several network inputs, of which `detectors.tiled` cuts square tiles
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

MODES = ("native", "letterbox", "squash", "tile")
SQUARE_UP_TO = 1.1  # longer side over the shorter one
_GREY = (114, 114, 114)  # the usual letterbox colour of detection networks (YOLO)


@dataclass(frozen=True)
class Input:
    """How source images reach the network: fit mode, network H and W, median source H and W (pixels). tile: side of
    the square tiles that the network sees one by one; 0: it sees the whole."""

    mode: str
    height: int
    width: int
    source_height: int
    source_width: int
    tile: int = 0


@dataclass(frozen=True)
class InputFit:
    """mode: see the module. height, width: the network's input in pixels."""

    mode: str
    height: int
    width: int


@dataclass(frozen=True)
class Box:
    """Where the resized image lies in the network's input, in pixels."""

    top: int
    left: int
    height: int
    width: int


def plan_fit(mode: str, height: int, width: int, pixels: int, *, stride: int, min_side: int) -> InputFit:
    """The network's input for a line of `height` x `width` images and a budget of `pixels`.

    Sides are multiples of `stride` and at least `min_side`. Raises ValueError on an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown fit {mode!r}; known: {', '.join(MODES)}")
    aspect = height / width if mode in ("native", "tile") else 1.0
    ideal_width = math.sqrt(pixels / aspect)
    # A side below the network's least is raised, and the other with it: the aspect is what `native` promises.
    scale = max(1.0, min_side / min(ideal_width, ideal_width * aspect))
    return InputFit(
        mode,
        _multiple(ideal_width * aspect * scale, stride, min_side),
        _multiple(ideal_width * scale, stride, min_side),
    )


def plan_tiles(height: int, width: int, pixels: int, tiles: int, *, stride: int, min_side: int) -> tuple[InputFit, int]:
    """The input of a line of large images, and the side of the square tiles (about `pixels`) it is cut into.

    The input has the image's own size, or less so that about `tiles` tiles cover it; no side is below a tile's.
    """
    tile = _multiple(math.sqrt(pixels), stride, min_side)
    whole = plan_fit("tile", height, width, min(height * width, tiles * pixels), stride=stride, min_side=tile)
    return whole, tile


def _multiple(side: float, stride: int, least: int) -> int:
    return max(round(side / stride), math.ceil(least / stride), 1) * stride


def is_square(height: int, width: int) -> bool:
    """Whether squashing an image of this size would change next to nothing."""
    return max(height, width) < SQUARE_UP_TO * min(height, width)


def box_of(fit: InputFit, height: int, width: int) -> Box:
    """Where an image of `height` x `width` lies in the network's input: centred, aspect kept (but for squash)."""
    if fit.mode == "squash":
        return Box(0, 0, fit.height, fit.width)
    scale = min(fit.height / height, fit.width / width)
    inner_height = min(fit.height, max(1, round(height * scale)))
    inner_width = min(fit.width, max(1, round(width * scale)))
    return Box((fit.height - inner_height) // 2, (fit.width - inner_width) // 2, inner_height, inner_width)


def to_network(image: npt.NDArray[np.uint8], fit: InputFit) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 to (h, w, 3) uint8: area interpolation where it shrinks, bilinear where it grows."""
    height, width = image.shape[:2]
    box = box_of(fit, height, width)
    shrinks = box.height <= height and box.width <= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (box.width, box.height), interpolation=how)
    below, right = fit.height - box.height - box.top, fit.width - box.width - box.left
    border = cv2.BORDER_CONSTANT if fit.mode == "letterbox" else cv2.BORDER_REFLECT
    padded = cv2.copyMakeBorder(resized, box.top, below, box.left, right, border, value=_GREY)
    return np.ascontiguousarray(padded, dtype=np.uint8)


def to_source(heatmap: npt.NDArray[np.float32], fit: InputFit, height: int, width: int) -> npt.NDArray[np.float32]:
    """(h, w) float32 at the network's size to (H, W) float32 at the image's: the padding cut off, then bilinear."""
    box = box_of(fit, height, width)
    inner = heatmap[box.top : box.top + box.height, box.left : box.left + box.width]
    resized = cv2.resize(np.ascontiguousarray(inner), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float32, copy=False)
