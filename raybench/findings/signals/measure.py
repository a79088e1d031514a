"""The witnesses: numbers that tell how far an image is from OK ones in light, in layout, and in local structure.

Each is compared with how far OK images of the line are from each other, see `References.limits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from raybench.findings.signals.light import LightChange, light_change, new_tones, tint_change
from raybench.findings.signals.moves import Move, Spectra, best_move, turned_gain
from raybench.findings.signals.parts import Region, Spot, displaced_part, missing_part, new_structure
from raybench.findings.signals.views import Floats, View

LAID_OVER = 5  # references that fit best in place: what is compared part by part


@dataclass(frozen=True)
class Witness:
    """group: those of which the loudest counts. least: what is no anomaly on any line. head: times what OK images
    commonly show. vague: where OK images differ by more than that, it says nothing. needs_layout: says nothing where
    the line's images have no layout in common."""

    group: str
    least: float
    head: float
    vague: float = np.inf
    needs_layout: bool = False


WITNESSES: Mapping[str, Witness] = {
    "gain": Witness("light", 0.09, 1.15, vague=0.4),
    "bend": Witness("light", 0.06, 1.15, vague=0.3),
    "gamma": Witness("light", 0.15, 1.3, vague=0.6),
    "spot": Witness("light", 0.035, 1.25, vague=0.3),
    "tint": Witness("light", 0.04, 1.5),
    "tones": Witness("light", 0.04, 1.3),
    "moved": Witness("layout", 0.025, 1.2, needs_layout=True),
    "turned": Witness("layout", 0.01, 1.2),
    "missing": Witness("layout", 0.3, 1.1, needs_layout=True),
    "displaced": Witness("layout", 0.2, 1.1, needs_layout=True),
    "new": Witness("new", 5.0, 1.1),
    "new_share": Witness("new", 0.003, 1.1),
}


@dataclass(frozen=True)
class Known:
    """A line's OK images, and the same in stacks: light (N, 3, R, C), tint (N, 2), tones (N, T), directions (N, A), all
    float32. near_px: how far from its place, in pixels of a pattern, an image of this line may lie."""

    views: tuple[View, ...]
    patterns: Spectra
    light: Floats
    tint: Floats
    tones: Floats
    directions: Floats
    near_px: int


@dataclass(frozen=True)
class Measured:
    """What the witnesses say, and what they saw. values: by name of a witness. tint: (2,) float32, red and blue against
    green, log."""

    values: Mapping[str, float]
    light: LightChange
    tint: Floats
    move: Move
    missing: Spot
    displaced: Spot
    new: Region


def measure(one: View, known: Known, without: int | None = None) -> Measured:
    """without: a reference not to compare with: the image itself."""
    keep = np.arange(len(known.views)) != (-1 if without is None else without)
    move = best_move(one.pattern, known.patterns, known.near_px, without)
    light = light_change(one.light, known.light[keep])
    edges = np.stack([_laid(known.views[int(at)].edges, dy, dx) for at, dy, dx in move.aligned[:LAID_OVER]])
    greys = np.stack([_laid(known.views[int(at)].grey, dy, dx) for at, dy, dx in move.aligned[:LAID_OVER]])
    missing, displaced, new = (
        missing_part(one.edges, edges),
        displaced_part(one.grey, greys),
        new_structure(one.edges, edges),
    )
    tint = tint_change(one.tint, known.tint[keep])
    values = {
        "gain": abs(light.gain),
        "bend": light.bend,
        "gamma": abs(light.gamma),
        "spot": light.spot,
        "tint": float(np.abs(tint).max()),
        "tones": new_tones(one.tones, known.tones[keep]),
        "moved": move.gain,
        "turned": turned_gain(one.directions, known.directions[keep]),
        "missing": missing.value,
        "displaced": displaced.value,
        "new": new.spot.value,
        "new_share": new.share,
    }
    return Measured(values, light, tint, move, missing, displaced, new)


def _laid(image: Floats, dy: float, dx: float) -> Floats:
    """A reference moved to where the image is; dy, dx: shares of height and width."""
    height, width = image.shape
    matrix = np.array([[1, 0, dx * width], [0, 1, dy * height]])
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
