"""The witnesses: numbers that tell how far an image is from OK ones in light, in layout, and in local structure.

A change of light or of the whole scene touches nearly all blocks of an image, a defect a few: so there are medians over
blocks, which something local cannot move, beside tails over blocks, which it does. Structure is looked at in the
references' light, so that a change of light makes none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.light import LightChange, foreign_levels, light_change, tint_change
from raybench.analysis.anomaly_types.moves import UPRIGHT, Move, Spectra, best_move, turned_gain
from raybench.analysis.anomaly_types.parts import NewStructure, Spot, displaced_part, missing_part, new_structure
from raybench.analysis.anomaly_types.views import Floats, View, edges_of

LAID_OVER = 5  # references that fit best in place: what is compared part by part
_FEW = 0.97  # quantile over blocks: what a few of them show
_BESIDE = 0.15  # of the shorter side: around a part

Group = Literal["light", "layout", "new", "context"]


@dataclass(frozen=True)
class Feature:
    """group: what it speaks for; "context" helps to weigh the others. least: a difference that means little, in the
    witness's own unit: added before a logarithm."""

    group: Group
    least: float


FEATURES: Mapping[str, Feature] = {
    "gain": Feature("light", 0.05),
    "bend": Feature("light", 0.03),
    "gamma": Feature("light", 0.08),
    "spot": Feature("light", 0.02),
    "tint": Feature("light", 0.02),
    "levels": Feature("light", 0.03),
    "levels_here": Feature("light", 0.03),
    "moved": Feature("layout", 0.03),
    "turned": Feature("layout", 0.01),
    "missing": Feature("layout", 0.2),
    "displaced": Feature("layout", 0.15),
    "new": Feature("new", 3.0),
    "new_share": Feature("new", 0.002),
    "tint_few": Feature("new", 0.03),
    "levels_few": Feature("new", 0.03),
    "left_few": Feature("new", 0.03),
    "residual_few": Feature("new", 3.0),
    "explained": Feature("context", 1.0),
    "levels_here_few": Feature("context", 0.03),
    "unlike": Feature("context", 0.05),
    "shifted": Feature("context", 0.03),
    "new_blocks": Feature("context", 0.03),
    "residual": Feature("context", 1.0),
    "new_at_missing": Feature("context", 0.3),
    "new_at_displaced": Feature("context", 0.3),
}


@dataclass(frozen=True)
class ReferenceStatistics:
    """A line's OK images, and the same in stacks, all float32: light (N, 3, R, C), levels (N, R, C, 3), directions
    (N, A). near_px: how far from its place, in pixels of a pattern, an image of this line may lie."""

    views: tuple[View, ...]
    patterns: Spectra
    light: Floats
    levels: Floats
    directions: Floats
    near_px: int


@dataclass(frozen=True)
class Measured:
    """What the witnesses say, in the order of FEATURES, and what they saw. tint: (2,) float32, red and blue against
    green, log."""

    values: Mapping[str, float]
    light: LightChange
    tint: Floats
    move: Move
    missing: Spot
    displaced: Spot
    new: NewStructure


def measure(one: View, known: ReferenceStatistics, without: Sequence[int] = ()) -> Measured:
    """without: references not to compare with: the image itself, or those most like it."""
    keep = np.setdiff1d(np.arange(len(known.views)), np.asarray(without, int))
    move = best_move(one.pattern, known.patterns, known.near_px, keep)
    light = light_change(one.light, known.light[keep])
    grey = light.undo(one.grey)
    over = [(known.views[int(at)], dy, dx) for at, dy, dx in move.aligned[:LAID_OVER]]
    edges, relit = np.stack([_laid(view.edges, dy, dx) for view, dy, dx in over]), edges_of(light.undo(one.fine))
    greys = np.stack([_laid(view.grey, dy, dx) for view, dy, dx in over])
    missing, displaced, new = missing_part(relit, edges), displaced_part(one.grey, greys), new_structure(relit, edges)
    tint, tint_few = tint_change(one.light, known.light[keep])
    anywhere, here = foreign_levels(one.levels, known.levels[keep])
    residual = _by_block(np.min(np.abs(grey - greys), axis=0), light.left.shape)
    values = {
        "gain": abs(light.gain),
        "bend": light.bend,
        "gamma": abs(light.gamma),
        "spot": light.spot,
        "tint": float(np.abs(tint).max()),
        "levels": float(np.median(anywhere)),
        "levels_here": float(np.median(here)),
        "moved": move.gain,
        "turned": turned_gain(one.directions, known.directions[keep]),
        "missing": missing.value,
        "displaced": displaced.value,
        "new": new.spot.value,
        "new_share": new.share,
        "tint_few": tint_few,
        "levels_few": float(np.quantile(anywhere, _FEW)),
        "left_few": float(np.quantile(np.abs(light.left), _FEW)),
        "residual_few": float(np.quantile(residual, _FEW)),
        "explained": light.explained,
        "levels_here_few": float(np.quantile(here, _FEW)),
        "unlike": 1 - move.still,
        "shifted": float(np.hypot(move.dy, move.dx)) if move.pose == UPRIGHT else 0.0,
        "new_blocks": new.blocks,
        "residual": float(np.median(residual)),
        "new_at_missing": _around(new.beyond, missing),
        "new_at_displaced": _around(new.beyond, displaced),
    }
    return Measured(values, light, tint, move, missing, displaced, new)


def log_features(measured: Measured) -> npt.NDArray[np.float64]:
    """(W,) float64, in the order of FEATURES: each value's logarithm, what means little put equal."""
    return np.array([np.log(max(value, 0.0) + FEATURES[name].least) for name, value in measured.values.items()])


def _by_block(image: Floats, shape: tuple[int, ...]) -> Floats:
    soft = cv2.blur(image.astype(np.float32), (5, 5))
    return cv2.resize(soft, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32)


def _around(image: Floats, spot: Spot) -> float:
    side = max(8, round(_BESIDE * min(image.shape)))
    return float(image[max(0, spot.y - side) : spot.y + side + 1, max(0, spot.x - side) : spot.x + side + 1].mean())


def _laid(image: Floats, dy: float, dx: float) -> Floats:
    """A reference moved to where the image is; dy, dx: shares of height and width."""
    height, width = image.shape
    matrix = np.array([[1, 0, dx * width], [0, 1, dy * height]])
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
