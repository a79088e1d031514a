"""Changes of the light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.perturbations.common import as_bytes, either, side_of
from raybench.analysis.anomaly_types.views import Image


def _plane(image: Image, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(H, W, 1): from -1 to 1 across the image, in any direction."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.cos(angle) * x + np.sin(angle) * y
    return np.asarray(plane / np.abs(plane).max(), np.float32)[..., np.newaxis]


def gain(image: Image, rng: np.random.Generator) -> Image:
    return as_bytes(image * either(rng, (0.5, 0.78), (1.28, 1.7)))


def gamma(image: Image, rng: np.random.Generator) -> Image:
    return as_bytes(255 * (image / 255) ** either(rng, (0.5, 0.72), (1.4, 2.0)))


def gradient(image: Image, rng: np.random.Generator) -> Image:
    return as_bytes(image * (1 + rng.uniform(0.3, 0.55) * _plane(image, rng)))


def cast(image: Image, rng: np.random.Generator) -> Image:
    """A colour cast: red against blue."""
    red = either(rng, (0.65, 0.82), (1.2, 1.45))
    return as_bytes(image * np.array([red, 1.0, 1 / red]))


def glare(image: Image, rng: np.random.Generator) -> Image:
    """A wide, soft, bright spot."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    sigma = rng.uniform(0.18, 0.32) * side_of(image)
    at_y, at_x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    spot = np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * sigma**2))
    return as_bytes(image + rng.uniform(70, 140) * spot[..., np.newaxis])
