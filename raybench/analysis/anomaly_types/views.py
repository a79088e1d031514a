"""An image as the signals look at it: at one small size for the whole line, and in the few forms that they compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WORK_PX = 192  # side of a square of the area that local structure is looked for in
PATTERN_PX = 48  # and of the area that is registered
FINE = 2  # times as many pixels a side show what is thin
BLOCKS = 8  # on the shorter side of the grid on which light is compared
_MOST_BLOCKS = 20
DARK = 12.0  # grey levels added before a logarithm: noise of dark pixels is no change of light
_PERIOD, _ANGLES = 45.0, 18
_LEVELS = (0.1, 0.5, 0.9)
_PATTERN_SIGMA_PX = 4.0


@dataclass(frozen=True)
class View:
    """grey: (H, W) float32, 0 to 255, working size. fine: the same, FINE times as large. edges: (H, W) float32, see
    `edges_of`. pattern: (h, w) float32,
    structure freed from light. light: (3, R, C) float32, log of each block's median red, green and blue. levels:
    (R, C, 3) float32, log of each block's dark, middle and bright grey levels. directions: (A,) float32, shares of the
    gradient by direction modulo 45 degrees, which is how things that are made by people mostly lie: what is straight
    stays where it is whatever parts are in the picture."""

    grey: Floats
    fine: Floats
    edges: Floats
    pattern: Floats
    light: Floats
    levels: Floats
    directions: Floats


def working_size(height: int, width: int, side_px: int = WORK_PX) -> tuple[int, int]:
    """(H, W) of the same aspect with the area of a square of `side_px` at most, and no side below an eighth of it."""
    scale, least = min(1.0, side_px / (height * width) ** 0.5), side_px // 8
    return max(least, round(height * scale)), max(least, round(width * scale))


def shrunk(image: Image, size: tuple[int, int]) -> Image:
    """(H, W, 3) uint8 of `size` (H, W)."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def view(image: Image, size: tuple[int, int]) -> View:
    """image: (H, W, 3) uint8 RGB. size: (H, W) to look at it in, see `working_size`."""
    large = shrunk(image, (FINE * size[0], FINE * size[1]))
    small = shrunk(large, size).astype(np.float32)
    fine, grey = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(np.float32) for one in (large, small))
    dx, dy = gradient(grey)
    return View(
        grey=grey,
        fine=fine,
        edges=edges_of(fine),
        pattern=_pattern(grey),
        light=_light(small),
        levels=_levels(grey),
        directions=_directions(dx, dy, _length(dx, dy)),
    )


def edges_of(fine: Floats) -> Floats:
    """(H, W) float32: the steepest gradient of each FINE x FINE pixels, in grey levels per pixel.

    fine: (FINE H, FINE W) float32.
    """
    edges = _length(*gradient(fine))
    steepest = cv2.dilate(edges, np.ones((FINE, FINE), np.uint8), anchor=(0, 0))
    return np.ascontiguousarray(steepest[::FINE, ::FINE], np.float32)


def _pattern(grey: Floats) -> Floats:
    """What stands out from its surroundings, in units of what does there: light does not change it."""
    small = cv2.resize(grey, working_size(grey.shape[0], grey.shape[1], PATTERN_PX)[::-1], interpolation=cv2.INTER_AREA)
    high = small - cv2.GaussianBlur(small, (0, 0), _PATTERN_SIGMA_PX)
    power = cv2.GaussianBlur(high * high, (0, 0), _PATTERN_SIGMA_PX * 1.5)
    return np.asarray(high / np.sqrt(power + 0.25 * power.mean() + 1e-3), np.float32)


def grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of blocks that are nearly square."""
    shorter = min(height, width)
    rows, columns = (min(_MOST_BLOCKS, round(BLOCKS * side / shorter)) for side in (height, width))
    return rows, columns


def gradient(grey: Floats) -> tuple[Floats, Floats]:
    """dx, dy, in grey levels per pixel. grey: (H, W) float32."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=0.25).astype(np.float32) for axis in ((1, 0), (0, 1)))
    return dx, dy


def _length(dx: Floats, dy: Floats) -> Floats:
    """Not `cv2.magnitude`, whose last bits depend on where in memory its arguments lie."""
    return np.sqrt(dx * dx + dy * dy)


def _light(small: Floats) -> Floats:
    medians = np.array([np.median(block.reshape(-1, 3), axis=0) for block in _blocks(small)])
    return np.asarray(np.log(medians.T + DARK).reshape(3, *grid(*small.shape[:2])), np.float32)


def _levels(grey: Floats) -> Floats:
    levels = np.array(
        [np.sort(block, axis=None)[[int(share * block.size) for share in _LEVELS]] for block in _blocks(grey)]
    )
    return np.asarray(np.log(levels + DARK).reshape(*grid(*grey.shape), -1), np.float32)


def _blocks(image: Floats) -> Iterator[Floats]:
    """Row by row."""
    height, width = image.shape[:2]
    rows, columns = grid(height, width)
    at_y, at_x = (np.linspace(0, side, n + 1).round().astype(int) for side, n in ((height, rows), (width, columns)))
    for i in range(rows):
        for j in range(columns):
            yield image[at_y[i] : at_y[i + 1], at_x[j] : at_x[j + 1]]


def _directions(dx: Floats, dy: Floats, edges: Floats) -> Floats:
    at = np.degrees(np.arctan2(dy, dx)) % _PERIOD * (_ANGLES / _PERIOD)
    found = np.bincount(at.astype(int).ravel() % _ANGLES, weights=edges.ravel(), minlength=_ANGLES)
    return np.asarray(found / (found.sum() + 1e-6), np.float32)
