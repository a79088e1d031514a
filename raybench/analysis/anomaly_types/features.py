"""Features: how far an image is from OK images in light, in layout and in local structure.

A change of light or of the whole scene affects nearly all blocks of an image, a defect only a few. Medians over blocks
are insensitive to local changes, high quantiles over blocks respond to them; there are features of both kinds.
Structure is compared after correcting the light to that of the references: a change of light is not structure.
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

ALIGNED = 5  # references that fit best in place: they are compared part by part
_FEW = 0.97  # quantile over blocks that only a few exceed
_BESIDE = 0.15  # of the shorter side: surroundings of a part

Group = Literal["light", "layout", "new", "context"]


@dataclass(frozen=True)
class Feature:
    """The definition of a feature."""

    group: Group
    """Type of anomaly that it indicates; "context" helps to weigh the others."""
    least: float
    """A negligible difference, in the feature's own unit; added before taking the logarithm."""


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
    """Views of a line's OK images, and their arrays stacked."""

    views: tuple[View, ...]
    patterns: Spectra
    light: Floats
    """(N, 3, R, C) float32."""
    levels: Floats
    """(N, R, C, 3) float32."""
    directions: Floats
    """(N, A) float32."""
    near_px: int
    """Largest shift of an image of this line that still counts as in place, in pixels of a pattern."""


@dataclass(frozen=True)
class Features:
    """The features of one image, with the findings behind them."""

    values: Mapping[str, float]
    """Value by feature, in the order of FEATURES."""
    light: LightChange
    tint: Floats
    """(2,) float32, log ratio of red and of blue to green."""
    move: Move
    missing: Spot
    displaced: Spot
    new: NewStructure


def extract_features(view: View, references: ReferenceStatistics, without: Sequence[int] = ()) -> Features:
    """Compare an image with the references of its line.

    Args:
        view: The image.
        references: The line's references.
        without: Indices of references to leave out: the image itself, or the references most similar to it.
    """
    keep = np.setdiff1d(np.arange(len(references.views)), np.asarray(without, int))
    move = best_move(view.pattern, references.patterns, references.near_px, keep)
    light = light_change(view.light, references.light[keep])
    grey = light.undo(view.grey)
    aligned = [(references.views[int(index)], dy, dx) for index, dy, dx in move.aligned[:ALIGNED]]
    edges = np.stack([_shifted(reference.edges, dy, dx) for reference, dy, dx in aligned])
    greys = np.stack([_shifted(reference.grey, dy, dx) for reference, dy, dx in aligned])
    relit = edges_of(light.undo(view.fine))
    missing, displaced, new = missing_part(relit, edges), displaced_part(view.grey, greys), new_structure(relit, edges)
    tint, tint_few = tint_change(view.light, references.light[keep])
    anywhere, in_place = foreign_levels(view.levels, references.levels[keep])
    residual = _by_block(np.min(np.abs(grey - greys), axis=0), light.left.shape)
    values = {
        "gain": abs(light.gain),
        "bend": light.bend,
        "gamma": abs(light.gamma),
        "spot": light.spot,
        "tint": float(np.abs(tint).max()),
        "levels": float(np.median(anywhere)),
        "levels_here": float(np.median(in_place)),
        "moved": move.gain,
        "turned": turned_gain(view.directions, references.directions[keep]),
        "missing": missing.value,
        "displaced": displaced.value,
        "new": new.spot.value,
        "new_share": new.share,
        "tint_few": tint_few,
        "levels_few": float(np.quantile(anywhere, _FEW)),
        "left_few": float(np.quantile(np.abs(light.left), _FEW)),
        "residual_few": float(np.quantile(residual, _FEW)),
        "explained": light.explained,
        "levels_here_few": float(np.quantile(in_place, _FEW)),
        "unlike": 1 - move.still,
        "shifted": float(np.hypot(move.dy, move.dx)) if move.pose == UPRIGHT else 0.0,
        "new_blocks": new.blocks,
        "residual": float(np.median(residual)),
        "new_at_missing": _around(new.beyond, missing),
        "new_at_displaced": _around(new.beyond, displaced),
    }
    return Features(values, light, tint, move, missing, displaced, new)


def log_features(features: Features) -> npt.NDArray[np.float64]:
    """Return log(value + `Feature.least`) of each feature, (F,) float64 in the order of FEATURES."""
    return np.array([np.log(max(value, 0.0) + FEATURES[name].least) for name, value in features.values.items()])


def _by_block(image: Floats, shape: tuple[int, ...]) -> Floats:
    soft = cv2.blur(image.astype(np.float32), (5, 5))
    return cv2.resize(soft, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).astype(np.float32)


def _around(image: Floats, spot: Spot) -> float:
    side = max(8, round(_BESIDE * min(image.shape)))
    return float(image[max(0, spot.y - side) : spot.y + side + 1, max(0, spot.x - side) : spot.x + side + 1].mean())


def _shifted(image: Floats, dy: float, dx: float) -> Floats:
    """Shift a reference onto the image. dy, dx: shares of height and width."""
    height, width = image.shape
    matrix = np.array([[1, 0, dx * width], [0, 1, dy * height]])
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
