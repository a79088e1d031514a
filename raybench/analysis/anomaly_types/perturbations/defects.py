"""Perturbations that add a defect: local structure that OK images do not have."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.perturbations.common import grain, place, tone_at
from raybench.analysis.anomaly_types.views import Image
from raybench.data.perturbations import as_bytes, side_of


def scratch(image: Image, rng: np.random.Generator) -> Image:
    """Draw a thin, nearly straight line."""
    made, start = image.copy(), place(image, rng)
    length, angle = rng.uniform(0.12, 0.4) * side_of(image), rng.uniform(0, 2 * np.pi)
    angles = angle + rng.normal(0, 0.15, 6).cumsum()
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / 6
    points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
    thickness = max(1, round(rng.uniform(0.006, 0.012) * side_of(image)))
    return cv2.polylines(made, [points], False, tone_at(image, rng, start), thickness, cv2.LINE_AA).astype(np.uint8)


def blob(image: Image, rng: np.random.Generator) -> Image:
    """Draw a spot with an uneven, sharp edge."""
    made, centre = image.copy(), place(image, rng)
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radii = rng.uniform(0.02, 0.06) * side_of(image) * rng.uniform(0.7, 1.3, 14)
    points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, np.newaxis]
    return cv2.fillPoly(made, [np.rint(points).astype(np.int32)], tone_at(image, rng, centre), cv2.LINE_AA).astype(
        np.uint8
    )


def stain(image: Image, rng: np.random.Generator) -> Image:
    """Draw a translucent spot with a soft edge."""
    height, width = image.shape[:2]
    centre, radius = place(image, rng), rng.uniform(0.04, 0.09) * side_of(image)
    mask = np.zeros((height, width), np.float32)
    axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.6, 1.0))))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), radius * 0.2)[..., np.newaxis].astype(np.float32) * rng.uniform(0.5, 0.8)
    return as_bytes(image * (1 - mask) + np.array(tone_at(image, rng, centre)) * mask)


def crack(image: Image, rng: np.random.Generator) -> Image:
    """Draw a thin line that wanders and branches."""
    made, start = image.copy(), place(image, rng)
    tone, angle = tone_at(image, rng, start), rng.uniform(0, 2 * np.pi)
    thickness = max(1, round(0.005 * side_of(image)))
    for branch in (0.0, rng.choice([-0.9, 0.9])):
        angles = angle + branch + rng.normal(0, 0.5, 14)
        steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.015, 0.035) * side_of(image)
        points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
        cv2.polylines(made, [points], False, tone, thickness, cv2.LINE_AA)
    return made


def specks(image: Image, rng: np.random.Generator) -> Image:
    """Draw 4 to 9 small dots close together, like dust or pores."""
    made, centre = image.copy(), place(image, rng)
    tone = tone_at(image, rng, centre)
    for _ in range(rng.integers(4, 10)):
        x, y = np.rint(centre + rng.normal(0, 0.05, 2) * side_of(image)).astype(int).tolist()
        cv2.circle(made, (x, y), max(1, round(rng.uniform(0.006, 0.016) * side_of(image))), tone, -1, cv2.LINE_AA)
    return made


def soil(image: Image, rng: np.random.Generator) -> Image:
    """Draw uneven patches of foreign material in any colour."""
    side, middle = side_of(image), np.array(place(image, rng))
    mask = np.zeros(image.shape[:2], np.float32)
    for _ in range(rng.integers(1, 4)):
        centre = middle + rng.normal(0, 0.06, 2) * side
        cv2.fillPoly(mask, [_polygon(centre, rng.uniform(0.02, 0.1) * side * rng.uniform(0.5, 1.3, 12), rng)], 1.0)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.5, rng.uniform(0.002, 0.008) * side))[..., np.newaxis]
    tone = np.array(tone_at(image, rng, (int(middle[0]), int(middle[1])))) * (
        rng.uniform(0.6, 1.4, 3) if rng.random() < 0.5 else 1.0
    )
    fill = tone + grain(image.shape, 0.008 * side, rng)[..., np.newaxis] * rng.uniform(5, 30)
    share = soft * rng.uniform(0.6, 1.0)
    return as_bytes(image * (1 - share) + fill * share)


def broken(image: Image, rng: np.random.Generator) -> Image:
    """Break off a piece: a jagged outline, partly lit, filled with a tone from elsewhere in the image."""
    height, width = image.shape[:2]
    side, centre = side_of(image), np.array(place(image, rng, 0.1))
    outline = _polygon(centre, rng.uniform(0.06, 0.2) * side * rng.uniform(0.5, 1.4, rng.integers(6, 12)), rng)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline], 1)
    y, x = rng.integers(0, height), rng.integers(0, width)
    behind = image[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].reshape(-1, 3).mean(axis=0)
    fill = behind + grain(image.shape, 0.02 * side, rng)[..., np.newaxis] * rng.uniform(2, 15)
    made = as_bytes(np.where(mask[..., np.newaxis] > 0, fill, image))
    tone, count = tone_at(image, rng, (int(centre[0]), int(centre[1]))), len(outline)
    for _ in range(rng.integers(1, 4)):
        first = int(rng.integers(0, count))
        edge = outline[[first, (first + 1) % count, (first + 2) % count]]
        cv2.polylines(made, [edge], False, tone, max(1, round(rng.uniform(0.004, 0.012) * side)), cv2.LINE_AA)
    return made


def hole(image: Image, rng: np.random.Generator) -> Image:
    """Draw a dark or bright spot whose rim partly has another tone."""
    side, centre, made = side_of(image), place(image, rng), image.copy()
    radius, tone = rng.uniform(0.015, 0.06) * side, tone_at(image, rng, centre)
    axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.5, 1.0))))
    cv2.ellipse(made, centre, axes, float(rng.uniform(0, 180)), 0, 360, tone, -1, cv2.LINE_AA)
    rim = tuple(int(np.clip(value + 60 * rng.choice([-1, 1]), 0, 255)) for value in tone)
    start, end, thickness = float(rng.uniform(0, 180)), float(rng.uniform(200, 360)), max(1, round(0.006 * side))
    return cv2.ellipse(made, centre, axes, 0, start, end, rim, thickness, cv2.LINE_AA).astype(np.uint8)


def cut(image: Image, rng: np.random.Generator) -> Image:
    """Draw a straight groove with the opposite tone along one side."""
    side, middle, made = side_of(image), place(image, rng), image.copy()
    angle, thickness = rng.uniform(0, 2 * np.pi), max(1, round(rng.uniform(0.008, 0.025) * side))
    half = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.04, 0.15) * side
    aside = np.array([-np.sin(angle), np.cos(angle)]) * thickness
    tone = tone_at(image, rng, middle)
    ground = image[middle[1], middle[0]].astype(float)
    opposite = tuple(int(value) for value in np.clip(2 * ground - np.array(tone), 0, 255))
    for offset, colour, wide in ((0 * aside, tone, thickness), (aside, opposite, max(1, thickness // 2))):
        start, end = (np.rint(middle + sign * half + offset).astype(int).tolist() for sign in (-1, 1))
        cv2.line(made, start, end, colour, wide, cv2.LINE_AA)
    return made


def _polygon(
    centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Return the corners (x, y) of a polygon with the given radii at random angles, (n, 2) int32."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, len(radii)))
    return np.rint(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, np.newaxis]).astype(np.int32)
