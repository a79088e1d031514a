"""Helpers of the perturbations. Sizes are shares of an image's shorter side, so they look alike at any resolution."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.views import Image

Perturb = Callable[[Image, np.random.Generator], Image]

LEAST_CHANGE = 12.0  # grey levels: a smaller change is invisible (gamma on a binarised image)
_TRIES = 20


def perturb(image: Image, change: Perturb, rng: np.random.Generator) -> Image | None:
    """Perturb an image until the change is visible.

    Args:
        image: (H, W, 3) uint8 RGB.
        change: The perturbation.
        rng: Source of randomness.

    Returns:
        (H, W, 3) uint8 RGB, or None if no attempt is visible on this image.
    """
    for _ in range(_TRIES):
        made = change(image, rng)
        if _change(image, made) >= LEAST_CHANGE:
            return made
    return None


def _change(image: Image, made: Image) -> float:
    """Return the mean difference over the 1 % of pixels that change most, in grey levels."""
    difference = np.abs(made.astype(np.int16) - image).max(axis=2).ravel()
    count = max(1, difference.size // 100)
    return float(np.partition(difference, -count)[-count:].mean())


def either(rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]) -> float:
    """Draw uniformly from one of two ranges, each with probability 0.5."""
    return float(rng.uniform(*(low if rng.random() < 0.5 else high)))


def tone_at(image: Image, rng: np.random.Generator, centre: tuple[int, int]) -> tuple[int, int, int]:
    """Draw a grey tone that contrasts with the surroundings of `centre`, (x, y)."""
    x, y = centre
    around = image[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8]
    mean = float(around.mean())
    up = mean < 75 or (mean < 180 and rng.random() < 0.5)
    tone = int(np.clip(mean + rng.uniform(60, 110) * (1 if up else -1), 0, 255))
    return tone, tone, tone


def place(image: Image, rng: np.random.Generator, margin: float = 0.15) -> tuple[int, int]:
    """Draw a place (x, y) at least `margin`, a share of each side, from the border."""
    height, width = image.shape[:2]
    return int(rng.uniform(margin, 1 - margin) * width), int(rng.uniform(margin, 1 - margin) * height)


def grain(shape: tuple[int, ...], sigma_px: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw noise with a grain of `sigma_px`, (H, W) float32 of unit variance."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, shape[:2]).astype(np.float32), (0, 0), max(0.6, sigma_px))
    return np.asarray(noise / (noise.std() + 1e-6), np.float32)
