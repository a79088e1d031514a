"""Has the light changed? A smooth field and a tone curve are fitted to the difference from each reference.

The difference of log medians on a grid of blocks is modelled as gain + a plane + a quadric + (gamma - 1) x log
brightness, robustly (iteratively reweighted least squares, Huber's weights), so that something local does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import KDTree

from raybench.analysis.anomaly_types.views import DARK, Floats

_ROUNDS = 4
_HUBER = 1.5
_LEAST_SIGMA = 0.02
_TRIED, _NEAREST = 10, 4  # of the references
_FEW = 0.97
_RIDGE = np.diag([0.0, 0, 0, 0.5, 0.5, 0.5, 0.5])


@dataclass(frozen=True)
class LightChange:
    """All in log units. gain: the mean of what is modelled. bend: root mean square of plane and quadric. gamma: of its
    logarithm. spot: root mean square of what is left and wider than two blocks. explained: share of the difference that
    the model explains, 0 to 1. field: (R, C) float32, what is modelled. left: (R, C) float32, the rest."""

    gain: float
    bend: float
    gamma: float
    spot: float
    explained: float
    field: Floats
    left: Floats

    def undo(self, grey: Floats) -> Floats:
        """(H, W) float32: the image as it would be in the reference's light."""
        field = cv2.resize(self.field, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.clip((grey + DARK) / np.exp(field) - DARK, 0, 255).astype(np.float32)


def light_change(light: Floats, references: Floats) -> LightChange:
    """The least change that brings one of the nearest references to the image. light: (3, R, C), references:
    (N, 3, R, C) float32, see `View.light`."""
    grey, known = light.mean(axis=0), references.mean(axis=1)
    offsets = (grey - known).reshape(len(known), -1)
    spread = np.mean(np.abs(offsets - np.median(offsets, axis=1, keepdims=True)), axis=1)
    smooth = _basis(light.shape[1:])
    fits = [_fit(grey, known[at], smooth) for at in np.argsort(spread)[:_TRIED]]
    nearest = sorted(fits, key=lambda fit: fit[1])[:_NEAREST]
    return min((change for change, _ in nearest), key=lambda change: abs(change.gain) + change.bend + change.spot)


def _basis(shape: Sequence[int]) -> Floats:
    rows, columns = shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].reshape(2, -1)
    return np.stack([np.ones_like(x), x, y, x * x - 0.43, y * y - 0.43, x * y], axis=1).astype(np.float32)


def _fit(light: Floats, reference: Floats, smooth: Floats) -> tuple[LightChange, float]:
    """The change, and how much is left unexplained: the mean absolute residual. light, reference: (R, C)."""
    difference = (light - reference).ravel()
    tone = reference.ravel()
    columns = np.column_stack([smooth, tone - tone.mean()])
    weights = np.ones_like(difference)
    for _ in range(_ROUNDS):
        weighted = columns * weights[:, np.newaxis]
        solution = np.linalg.solve(weighted.T @ columns + _RIDGE, weighted.T @ difference)
        left = difference - columns @ solution
        sigma = max(_LEAST_SIGMA, 1.48 * float(np.median(np.abs(left))))
        weights = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(left), 1e-6))
    wide = cv2.medianBlur(left.reshape(light.shape).astype(np.float32), 3)
    change = LightChange(
        gain=float((columns @ solution).mean()),
        bend=float(np.sqrt(np.mean((smooth[:, 1:] @ solution[1:6]) ** 2))),
        gamma=float(np.log(max(0.05, 1 + solution[6]))),
        spot=float(np.sqrt(np.mean(wide**2))),
        explained=max(0.0, 1 - float(np.sum(left**2)) / (float(np.sum(difference**2)) + 1e-9)),
        field=(columns @ solution).reshape(light.shape).astype(np.float32),
        left=left.reshape(light.shape).astype(np.float32),
    )
    return change, float(np.mean(np.abs(left)))


def tint_change(light: Floats, references: Floats) -> tuple[Floats, float]:
    """(2,): how far red and blue against green lie from the nearest reference, in log units, the median over blocks;
    and how much farther a few blocks lie. light: (3, R, C), references: (N, 3, R, C)."""
    tint, known = (values[..., [0, 2], :, :] - values[..., 1:2, :, :] for values in (light, references))
    changes = (tint - known).reshape(len(known), 2, -1)
    medians = np.median(changes, axis=2)
    nearest = int(np.abs(medians).max(axis=1).argmin())
    away = np.abs(changes - medians[..., np.newaxis]).max(axis=1)
    return np.asarray(medians[nearest], np.float32), float(np.quantile(away, _FEW, axis=1).min())


def foreign_levels(levels: Floats, references: Floats) -> tuple[Floats, Floats]:
    """(R, C) twice: how far each block's grey levels lie from those of the nearest block of any reference, in log
    units: of any block there, and of those at its place or beside it. levels: (R, C, 3), references: (N, R, C, 3)."""
    rows, columns = levels.shape[:2]
    known, _ = KDTree(references.reshape(-1, 3)).query(levels.reshape(-1, 3), p=np.inf)
    apart = np.asarray(known, np.float32)
    padded = np.pad(references, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    beside = np.full((rows, columns), np.inf, np.float32)
    for i in range(3):
        for j in range(3):
            away = np.abs(levels - padded[:, i : i + rows, j : j + columns])
            worst = np.maximum(np.maximum(away[..., 0], away[..., 1]), away[..., 2])
            beside = np.minimum(beside, worst.min(axis=0))
    return apart.reshape(rows, columns), beside
