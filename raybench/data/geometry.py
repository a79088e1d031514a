"""Resize images to the input of a network, and heat maps back to the size of the image.

native     keeps the aspect, at about a pixel budget: resized to fit inside the network's input, whose sides are
           multiples of the network's stride; the rest is padded by reflection
letterbox  keeps the aspect inside a square that is padded with grey
squash     stretches to a square: the aspect is lost
tile       as native, for large images: several network inputs, of which `detectors.tiled` cuts square tiles
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

MODES = ("native", "letterbox", "squash", "tile")
SQUARE_UP_TO = 1.1  # longer side / shorter side
GREY = 114
"""Value of pixels that a network is to ignore, the usual letterbox colour of detection networks (YOLO)."""


@dataclass(frozen=True)
class Input:
    """How the images of a line are resized for a network. All sizes are in pixels."""

    mode: str
    """One of `MODES`."""
    height: int
    """Of the network's input."""
    width: int
    """Of the network's input."""
    source_height: int
    """Median height of the line's images."""
    source_width: int
    """Median width of the line's images."""
    tile: int = 0
    """Side of the square tiles that the network gets one by one. 0 if it gets the whole input."""


@dataclass(frozen=True)
class InputFit:
    """A resize mode and the size of the network's input."""

    mode: str
    """One of `MODES`."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""


@dataclass(frozen=True)
class Box:
    """The position of the resized image in the network's input, in pixels."""

    top: int
    left: int
    height: int
    width: int


def plan_fit(mode: str, height: int, width: int, pixels: int, *, stride: int, min_side: int) -> InputFit:
    """Choose the network's input for a line.

    Args:
        mode: One of `MODES`.
        height: Median height of the line's images in pixels.
        width: Their median width in pixels.
        pixels: Budget of the network's input, met approximately.
        stride: Each side of the input is a multiple of it.
        min_side: Least side of the input in pixels.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"unknown fit {mode!r}; known: {', '.join(MODES)}")
    aspect = height / width if mode in ("native", "tile") else 1.0
    ideal_width = math.sqrt(pixels / aspect)
    # Where a side is below `min_side`, both sides are raised in proportion, as `native` keeps the aspect.
    scale = max(1.0, min_side / min(ideal_width, ideal_width * aspect))
    return InputFit(
        mode,
        _multiple(ideal_width * aspect * scale, stride, min_side),
        _multiple(ideal_width * scale, stride, min_side),
    )


def plan_tiles(height: int, width: int, pixels: int, tiles: int, *, stride: int, min_side: int) -> tuple[InputFit, int]:
    """Choose the input of a line of large images and the side of its tiles.

    The input has the size of the image, or less if more than about `tiles` tiles were needed to cover it. No side is
    shorter than a tile.

    Args:
        height: Median height of the line's images in pixels.
        width: Their median width in pixels.
        pixels: Budget of one tile, met approximately.
        tiles: Number of tiles, approximately, that cover the largest input.
        stride: Each side of input and tile is a multiple of it.
        min_side: Least side of a tile in pixels.

    Returns:
        The input, and the side of the square tiles in pixels.
    """
    tile = _multiple(math.sqrt(pixels), stride, min_side)
    whole = plan_fit("tile", height, width, min(height * width, tiles * pixels), stride=stride, min_side=tile)
    return whole, tile


def _multiple(side: float, stride: int, least: int) -> int:
    return max(round(side / stride), math.ceil(least / stride), 1) * stride


def is_square(height: int, width: int) -> bool:
    """Whether an image is so nearly square that squashing hardly changes it."""
    return max(height, width) < SQUARE_UP_TO * min(height, width)


def box_of(fit: InputFit, height: int, width: int) -> Box:
    """Locate an image of `height` x `width` in the network's input. It is centred; only `squash` changes its aspect."""
    if fit.mode == "squash":
        return Box(0, 0, fit.height, fit.width)
    scale = min(fit.height / height, fit.width / width)
    inner_height = min(fit.height, max(1, round(height * scale)))
    inner_width = min(fit.width, max(1, round(width * scale)))
    return Box((fit.height - inner_height) // 2, (fit.width - inner_width) // 2, inner_height, inner_width)


def padding_of(fit: InputFit) -> int | None:
    """Return the value of the pixels around the image in the network's input. None: they are its reflections."""
    return GREY if fit.mode == "letterbox" else None


def to_network(image: npt.NDArray[np.uint8], fit: InputFit) -> npt.NDArray[np.uint8]:
    """Resize and pad an image to the network's input.

    Interpolation is by area if the image shrinks, otherwise bilinear. Exported files repeat it: see
    `detectors.onnx_graph`.

    Args:
        image: (H, W, 3) uint8.
        fit: Mode and size of the input.

    Returns:
        (fit.height, fit.width, 3) uint8.
    """
    height, width = image.shape[:2]
    box = box_of(fit, height, width)
    shrinks = box.height <= height and box.width <= width
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (box.width, box.height), interpolation=interpolation)
    below, right = fit.height - box.height - box.top, fit.width - box.width - box.left
    padding = padding_of(fit)
    border = cv2.BORDER_REFLECT if padding is None else cv2.BORDER_CONSTANT
    padded = cv2.copyMakeBorder(resized, box.top, below, box.left, right, border, value=(padding or 0,) * 3)
    return np.ascontiguousarray(padded, dtype=np.uint8)


def to_source(heatmap: npt.NDArray[np.float32], fit: InputFit, height: int, width: int) -> npt.NDArray[np.float32]:
    """Crop the padding off a heat map and resize it to the image, bilinearly.

    Args:
        heatmap: (fit.height, fit.width) float32.
        fit: Mode and size of the network's input.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        (height, width) float32.
    """
    box = box_of(fit, height, width)
    inner = heatmap[box.top : box.top + box.height, box.left : box.left + box.width]
    resized = cv2.resize(np.ascontiguousarray(inner), (width, height), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float32, copy=False)
