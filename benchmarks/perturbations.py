"""Perturbations that evaluate the signals: those a line's classifier learns from (on other images), and some of other
kinds that served for nothing but evaluation."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from raybench.analysis.anomaly_types.perturbations import CHANGES, Perturb
from raybench.analysis.anomaly_types.perturbations.common import either, place, tone_at
from raybench.analysis.anomaly_types.perturbations.layout import boxes
from raybench.analysis.anomaly_types.views import Image
from raybench.data.perturbations import as_bytes, side_of, warped


def vignette(image: Image, rng: np.random.Generator) -> Image:
    """Dark towards the corners."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return as_bytes(image * (1 - rng.uniform(0.35, 0.6) * (x**2 + y**2) / 2)[..., np.newaxis])


def haze(image: Image, rng: np.random.Generator) -> Image:
    """Stray light: brighter and with less contrast."""
    share = rng.uniform(0.25, 0.5)
    return as_bytes(image * (1 - share) + 200 * share)


def extra(image: Image, rng: np.random.Generator) -> Image:
    """A structured part is there once more, somewhere else."""
    found = boxes(image, rng, 1, (0.16, 0.28))
    (top, left), (box_h, box_w) = found
    to_top, to_left = (int(rng.integers(0, side - box)) for side, box in zip(image.shape, (box_h, box_w), strict=False))
    made = image.copy()
    made[to_top : to_top + box_h, to_left : to_left + box_w] = image[top : top + box_h, left : left + box_w]
    return made


def slip(image: Image, rng: np.random.Generator) -> Image:
    """The lower half lies to the side of where it should."""
    height, width = image.shape[:2]
    middle = int(rng.uniform(0.4, 0.6) * height)
    aside = either(rng, (-0.14, -0.07), (0.07, 0.14)) * width
    made = image.copy()
    made[middle:] = warped(image, np.array([[1, 0, aside], [0, 1, 0]]))[middle:]
    return made


def hair(image: Image, rng: np.random.Generator) -> Image:
    """A thin, smooth curve."""
    made, start = image.copy(), place(image, rng)
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, either(rng, (-4, -1.5), (1.5, 4)), 24)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.15, 0.4) * side_of(image) / 24
    points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
    thickness = max(1, round(0.006 * side_of(image)))
    return cv2.polylines(made, [points], False, tone_at(image, rng, start), thickness, cv2.LINE_AA).astype(np.uint8)


def chip(image: Image, rng: np.random.Generator) -> Image:
    """A facet with straight, sharp edges, lit on one side."""
    made, centre = image.copy(), place(image, rng)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 4))
    radii = rng.uniform(0.03, 0.06) * side_of(image)
    points = np.rint(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii).astype(np.int32)
    for half, factor in ((points[:3], 1.0), (points[[0, 2, 3]], 0.7)):
        tone = tuple(int(value * factor) for value in tone_at(image, rng, centre))
        cv2.fillPoly(made, [half], tone, cv2.LINE_AA)
    return made


NAMED: Mapping[str, tuple[Perturb, ...]] = {
    kind: tuple(change for change in changes if change.__name__ not in ("soil", "broken", "hole", "cut"))
    for kind, changes in CHANGES.items()
}
LEFT_OUT: Mapping[str, tuple[Perturb, ...]] = {
    "lighting": (vignette, haze),
    "layout": (extra, slip),
    "defect": (hair, chip),
}
