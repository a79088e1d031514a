"""Views of an image: reduced to one small size for the whole line, in the forms that the features compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WORK_PX = 192  # side of a square with the area of the working size
PATTERN_PX = 48  # side of a square with the area of the pattern that is registered
FINE = 2  # pixels per working pixel and side of the finer size, which shows thin structure
BLOCKS = 8  # blocks on the shorter side of the grid on which light is compared
_MOST_BLOCKS = 20
DARK = 12.0  # grey levels added before a logarithm, so that noise of dark pixels is not a change of light
_PERIOD, _ANGLES = 45.0, 18
_LEVELS = (0.1, 0.5, 0.9)
_PATTERN_SIGMA_PX = 4.0


@dataclass(frozen=True)
class View:
    """An image at working size, in the forms that the features compare."""

    grey: Floats
    """(H, W) float32, 0 to 255, at working size."""
    fine: Floats
    """(FINE · H, FINE · W) float32, 0 to 255."""
    edges: Floats
    """(H, W) float32, see `edges_of`."""
    pattern: Floats
    """(h, w) float32, structure independent of light."""
    light: Floats
    """(3, R, C) float32, log of each block's median red, green and blue."""
    levels: Floats
    """(R, C, 3) float32, log of each block's dark, middle and bright grey levels."""
    directions: Floats
    """(A,) float32, shares of the gradient by direction modulo 45 degrees. Edges of manufactured parts mostly run in
    multiples of 45 degrees, so the shares hardly depend on which parts are in the picture."""


def working_size(height: int, width: int, side_px: int = WORK_PX) -> tuple[int, int]:
    """Return (H, W) of the same aspect with at most `side_px`² pixels and sides of at least `side_px` / 8."""
    scale, least = min(1.0, side_px / (height * width) ** 0.5), side_px // 8
    return max(least, round(height * scale)), max(least, round(width * scale))


def shrunk(image: Image, size: tuple[int, int]) -> Image:
    """Resize an image to `size` (H, W), (H, W, 3) uint8."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def make_view(image: Image, size: tuple[int, int]) -> View:
    """Compute the view of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: Working size (H, W), see `working_size`.
    """
    large = shrunk(image, (FINE * size[0], FINE * size[1]))
    small = shrunk(large, size).astype(np.float32)
    fine, grey = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) for rgb in (large, small))
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
    """Return the largest gradient of each FINE × FINE pixels, (H, W) float32 in grey levels per pixel.

    Args:
        fine: (FINE · H, FINE · W) float32.
    """
    edges = _length(*gradient(fine))
    steepest = cv2.dilate(edges, np.ones((FINE, FINE), np.uint8), anchor=(0, 0))
    return np.ascontiguousarray(steepest[::FINE, ::FINE], np.float32)


def _pattern(grey: Floats) -> Floats:
    """Return the high frequencies divided by their local power: light does not change them."""
    small = cv2.resize(grey, working_size(grey.shape[0], grey.shape[1], PATTERN_PX)[::-1], interpolation=cv2.INTER_AREA)
    high = small - cv2.GaussianBlur(small, (0, 0), _PATTERN_SIGMA_PX)
    power = cv2.GaussianBlur(high * high, (0, 0), _PATTERN_SIGMA_PX * 1.5)
    return np.asarray(high / np.sqrt(power + 0.25 * power.mean() + 1e-3), np.float32)


def grid(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of a grid of nearly square blocks."""
    shorter = min(height, width)
    rows, columns = (min(_MOST_BLOCKS, round(BLOCKS * side / shorter)) for side in (height, width))
    return rows, columns


def gradient(grey: Floats) -> tuple[Floats, Floats]:
    """Return dx and dy, (H, W) float32 in grey levels per pixel."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=0.25).astype(np.float32) for axis in ((1, 0), (0, 1)))
    return dx, dy


def _length(dx: Floats, dy: Floats) -> Floats:
    # Not `cv2.magnitude`: its last bits depend on the memory alignment of its arguments.
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
    """Yield the blocks of the grid row by row."""
    height, width = image.shape[:2]
    rows, columns = grid(height, width)
    rows_at, columns_at = (
        np.linspace(0, side, n + 1).round().astype(int) for side, n in ((height, rows), (width, columns))
    )
    for i in range(rows):
        for j in range(columns):
            yield image[rows_at[i] : rows_at[i + 1], columns_at[j] : columns_at[j + 1]]


def _directions(dx: Floats, dy: Floats, edges: Floats) -> Floats:
    bins = np.degrees(np.arctan2(dy, dx)) % _PERIOD * (_ANGLES / _PERIOD)
    shares = np.bincount(bins.astype(int).ravel() % _ANGLES, weights=edges.ravel(), minlength=_ANGLES)
    return np.asarray(shares / (shares.sum() + 1e-6), np.float32)
