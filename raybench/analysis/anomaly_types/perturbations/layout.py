"""Perturbations of the layout: parts or the whole scene move, turn or disappear."""

from __future__ import annotations

import cv2
import numpy as np

from raybench.analysis.anomaly_types.perturbations.common import either
from raybench.analysis.anomaly_types.views import Image
from raybench.data.perturbations import rotated, shifted, side_of


def shift(image: Image, rng: np.random.Generator) -> Image:
    """Shift the image by 8 to 18 % of its shorter side in any direction."""
    return shifted(image, rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.18))


def rotate(image: Image, rng: np.random.Generator) -> Image:
    """Rotate the image by 5 to 18 degrees either way."""
    return rotated(image, either(rng, (-18, -5), (5, 18)))


def mirror(image: Image, rng: np.random.Generator) -> Image:
    """Mirror the image left to right."""
    return np.ascontiguousarray(image[:, ::-1])


def turn(image: Image, rng: np.random.Generator) -> Image:
    """Turn the image upside down."""
    return np.ascontiguousarray(image[::-1, ::-1])


def boxes(image: Image, rng: np.random.Generator, count: int, share: tuple[float, float]) -> list[tuple[int, int]]:
    """Draw the most structured of 30 random boxes that do not overlap.

    Args:
        image: (H, W, 3) uint8 RGB.
        rng: Source of randomness.
        count: Number of boxes.
        share: Range of a box's sides, as shares of the image's shorter side.

    Returns:
        At most `count` top left corners (y, x), followed by the common (height, width) of the boxes.
    """
    height, width = image.shape[:2]
    box_h, box_w = (int(rng.uniform(*share) * side_of(image)) for _ in range(2))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    tops, lefts = rng.integers(0, height - box_h, 30), rng.integers(0, width - box_w, 30)
    corners = [(int(top), int(left)) for top, left in zip(tops, lefts, strict=True)]
    corners.sort(key=lambda yx: -float(energy[yx[0] : yx[0] + box_h, yx[1] : yx[1] + box_w].mean()))
    chosen: list[tuple[int, int]] = []
    for top, left in corners:
        if all(abs(top - other[0]) >= box_h or abs(left - other[1]) >= box_w for other in chosen):
            chosen.append((top, left))
    return [*chosen[:count], (box_h, box_w)]


def erase(image: Image, rng: np.random.Generator) -> Image:
    """Erase a structured part and fill its place from the surroundings."""
    (top, left), (box_h, box_w) = boxes(image, rng, 1, (0.16, 0.3))
    scale = min(1.0, 160 / side_of(image))  # inpainting is slow, and a missing part is smooth
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[top : top + box_h, left : left + box_w] = 255
    filled = cv2.inpaint(
        small, cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_NEAREST), 3, cv2.INPAINT_TELEA
    )
    large = cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(mask[..., np.newaxis] > 0, large, image).astype(np.uint8)


def swap(image: Image, rng: np.random.Generator) -> Image:
    """Swap two parts."""
    drawn = boxes(image, rng, 2, (0.16, 0.28))
    if len(drawn) < 3:
        return image
    (top, left), (to_top, to_left), (box_h, box_w) = drawn
    made = image.copy()
    made[top : top + box_h, left : left + box_w] = image[to_top : to_top + box_h, to_left : to_left + box_w]
    made[to_top : to_top + box_h, to_left : to_left + box_w] = image[top : top + box_h, left : left + box_w]
    return made
