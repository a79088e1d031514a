"""Perturbations of the light."""

from __future__ import annotations

import numpy as np

from raybench.analysis.anomaly_types.perturbations.common import either
from raybench.analysis.anomaly_types.views import Image
from raybench.data.perturbations import as_bytes, lit_from_side, scaled, side_of


def gain(image: Image, rng: np.random.Generator) -> Image:
    """Scale the brightness."""
    return scaled(image, either(rng, (0.5, 0.78), (1.28, 1.7)))


def gamma(image: Image, rng: np.random.Generator) -> Image:
    """Bend the tone curve."""
    return as_bytes(255 * (image / 255) ** either(rng, (0.5, 0.72), (1.4, 2.0)))


def gradient(image: Image, rng: np.random.Generator) -> Image:
    """Light the image from one side."""
    return lit_from_side(image, rng.uniform(0.3, 0.55), rng.uniform(0, 2 * np.pi))


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
