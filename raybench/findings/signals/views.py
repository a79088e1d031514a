"""An image as the signals look at it: at one small size for the whole line, and in the few forms that they compare."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WORK_PX = 192  # the longer side of what local structure is looked for in
PATTERN_PX = 48  # and of what is registered
BLOCKS = 8  # on the shorter side of the grid on which light is compared
_MOST_BLOCKS = 20
DARK = 12.0  # grey levels added before a logarithm: noise of dark pixels is no change of light
_PERIOD, _ANGLES, _TONES = 45.0, 18, 32
_PATTERN_SIGMA_PX = 4.0


@dataclass(frozen=True)
class View:
    """grey: (H, W) float32, 0 to 255, working size. edges: (H, W) float32, gradient magnitude. pattern: (h, w) float32,
    structure freed from light. light: (3, R, C) float32, log of each block's median red, green and blue.
    tint: (2,) float32, red and blue against green, log, by brightness. tones: (T,) float32, share of the pixels by
    brightness. directions: (A,) float32, shares of the gradient by direction modulo 45 degrees, which is how
    things that are made by people mostly lie: what is straight stays where it is whatever parts are in the picture."""

    grey: Floats
    edges: Floats
    pattern: Floats
    light: Floats
    tint: Floats
    tones: Floats
    directions: Floats


def working_size(height: int, width: int, longest_px: int = WORK_PX) -> tuple[int, int]:
    """(H, W) with `longest_px` as the longer side at most and an eighth of it as the shorter one at least; in between
    with the same aspect."""
    scale, least = min(1.0, longest_px / max(height, width)), longest_px // 8
    return max(least, round(height * scale)), max(least, round(width * scale))


def shrunk(image: Image, size: tuple[int, int]) -> Image:
    """(H, W, 3) uint8 of `size` (H, W)."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def view(image: Image, size: tuple[int, int]) -> View:
    """image: (H, W, 3) uint8 RGB. size: (H, W) to look at it in, see `working_size`."""
    small = shrunk(image, size).astype(np.float32)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=0.25).astype(np.float32) for axis in ((1, 0), (0, 1)))
    edges = cv2.magnitude(dx, dy).astype(np.float32)
    return View(
        grey=grey,
        edges=edges,
        pattern=_pattern(grey),
        light=_light(small),
        tint=_tint(small),
        tones=_tones(grey),
        directions=_directions(dx, dy, edges),
    )


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


def _light(small: Floats) -> Floats:
    height, width = small.shape[:2]
    rows, columns = grid(height, width)
    at_y, at_x = (np.linspace(0, side, n + 1).round().astype(int) for side, n in ((height, rows), (width, columns)))
    medians = [
        np.median(small[at_y[i] : at_y[i + 1], at_x[j] : at_x[j + 1]].reshape(-1, 3), axis=0)
        for i in range(rows)
        for j in range(columns)
    ]
    return np.asarray(np.log(np.asarray(medians).T + DARK).reshape(3, rows, columns), np.float32)


def _tint(small: Floats) -> Floats:
    mean = small.reshape(-1, 3).mean(axis=0) + DARK
    return np.asarray(np.log(mean[[0, 2]] / mean[1]), np.float32)


def _tones(grey: Floats) -> Floats:
    found = np.bincount((grey.ravel() * (_TONES / 256)).astype(int), minlength=_TONES)[:_TONES]
    return np.asarray(found / grey.size, np.float32)


def _directions(dx: Floats, dy: Floats, edges: Floats) -> Floats:
    at = np.degrees(np.arctan2(dy, dx)) % _PERIOD * (_ANGLES / _PERIOD)
    found = np.bincount(at.astype(int).ravel() % _ANGLES, weights=edges.ravel(), minlength=_ANGLES)
    return np.asarray(found / (found.sum() + 1e-6), np.float32)
