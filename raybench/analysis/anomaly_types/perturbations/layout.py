"""Changes of what lies where."""

from __future__ import annotations

import cv2
import numpy as np

from raybench.analysis.anomaly_types.perturbations.common import either, side_of, warped
from raybench.analysis.anomaly_types.views import Image


def shift(image: Image, rng: np.random.Generator) -> Image:
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.18) * side_of(image)
    return warped(image, np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]]))


def rotate(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    angle = either(rng, (-18, -5), (5, 18))
    return warped(image, np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0), np.float64))


def mirror(image: Image, rng: np.random.Generator) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def turn(image: Image, rng: np.random.Generator) -> Image:
    """Upside down."""
    return np.ascontiguousarray(image[::-1, ::-1])


def boxes(image: Image, rng: np.random.Generator, count: int, share: tuple[float, float]) -> list[tuple[int, int]]:
    """`count` top left corners and the box's (height, width) at the end: of 30 random boxes apart from each other the
    most structured ones."""
    height, width = image.shape[:2]
    box_h, box_w = (int(rng.uniform(*share) * side_of(image)) for _ in range(2))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    tops, lefts = rng.integers(0, height - box_h, 30), rng.integers(0, width - box_w, 30)
    corners = [(int(top), int(left)) for top, left in zip(tops, lefts, strict=True)]
    corners.sort(key=lambda at: -float(energy[at[0] : at[0] + box_h, at[1] : at[1] + box_w].mean()))
    chosen: list[tuple[int, int]] = []
    for top, left in corners:
        if all(abs(top - other[0]) >= box_h or abs(left - other[1]) >= box_w for other in chosen):
            chosen.append((top, left))
    return [*chosen[:count], (box_h, box_w)]


def erase(image: Image, rng: np.random.Generator) -> Image:
    """A structured part is gone: what surrounds it goes on."""
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
    """Two parts have changed places."""
    found = boxes(image, rng, 2, (0.16, 0.28))
    if len(found) < 3:
        return image
    (top, left), (to_top, to_left), (box_h, box_w) = found
    made = image.copy()
    made[top : top + box_h, left : left + box_w] = image[to_top : to_top + box_h, to_left : to_left + box_w]
    made[to_top : to_top + box_h, to_left : to_left + box_w] = image[top : top + box_h, left : left + box_w]
    return made
