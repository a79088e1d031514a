"""Perturbations of the light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.perturbations.common import as_bytes, either, side_of
from raybench.analysis.anomaly_types.views import Image


def _plane(image: Image, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a plane from -1 to 1 across the image in a random direction, (H, W, 1) float32."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.cos(angle) * x + np.sin(angle) * y
    return np.asarray(plane / np.abs(plane).max(), np.float32)[..., np.newaxis]


def gain(image: Image, rng: np.random.Generator) -> Image:
    """Scale the brightness."""
    return as_bytes(image * either(rng, (0.5, 0.78), (1.28, 1.7)))


def gamma(image: Image, rng: np.random.Generator) -> Image:
    """Bend the tone curve."""
    return as_bytes(255 * (image / 255) ** either(rng, (0.5, 0.72), (1.4, 2.0)))


def gradient(image: Image, rng: np.random.Generator) -> Image:
    """Light the image from one side."""
    return as_bytes(image * (1 + rng.uniform(0.3, 0.55) * _plane(image, rng)))


def cast(image: Image, rng: np.random.Generator) -> Image:
    """Add a colour cast: scale red and blue in opposite directions."""
    red = either(rng, (0.65, 0.82), (1.2, 1.45))
    return as_bytes(image * np.array([red, 1.0, 1 / red]))


def glare(image: Image, rng: np.random.Generator) -> Image:
    """Add a wide, soft, bright spot."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    sigma = rng.uniform(0.18, 0.32) * side_of(image)
    at_y, at_x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    spot = np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * sigma**2))
    return as_bytes(image + rng.uniform(70, 140) * spot[..., np.newaxis])
