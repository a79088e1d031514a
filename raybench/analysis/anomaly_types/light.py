"""Measure changes of light: a smooth field and a tone curve are fitted to the difference from each reference.

The difference of log medians on a grid of blocks is modelled as gain + a plane + a quadric + (gamma − 1) × log
brightness. The fit is robust (iteratively reweighted least squares with Huber's weights): local changes hardly count.
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
_TRIED, _NEAREST = 10, 4  # number of references that are fitted, and considered after that
_FEW = 0.97
_RIDGE = np.diag([0.0, 0, 0, 0.5, 0.5, 0.5, 0.5])


@dataclass(frozen=True)
class LightChange:
    """A fitted change of light, in log units."""

    gain: float
    """Mean of the fitted change."""
    bend: float
    """Root mean square of plane and quadric."""
    gamma: float
    """Logarithm of the exponent of the tone curve."""
    spot: float
    """Root mean square of the residual's parts that are wider than two blocks."""
    explained: float
    """Share of the difference that the model explains, 0 to 1."""
    field: Floats
    """(R, C) float32, the fitted change."""
    left: Floats
    """(R, C) float32, the residual."""

    def undo(self, grey: Floats) -> Floats:
        """Return the image, (H, W) float32, in the light of the reference."""
        field = cv2.resize(self.field, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.clip((grey + DARK) / np.exp(field) - DARK, 0, 255).astype(np.float32)


def light_change(light: Floats, references: Floats) -> LightChange:
    """Return the smallest change that turns one of the nearest references into the image.

    Args:
        light: (3, R, C) float32, see `View.light`.
        references: (N, 3, R, C) float32.
    """
    grey, greys = light.mean(axis=0), references.mean(axis=1)
    offsets = (grey - greys).reshape(len(greys), -1)
    spread = np.mean(np.abs(offsets - np.median(offsets, axis=1, keepdims=True)), axis=1)
    smooth = _basis(light.shape[1:])
    fits = [_fit(grey, greys[index], smooth) for index in np.argsort(spread)[:_TRIED]]
    nearest = sorted(fits, key=lambda fit: fit[1])[:_NEAREST]
    return min((change for change, _ in nearest), key=lambda change: abs(change.gain) + change.bend + change.spot)


def _basis(shape: Sequence[int]) -> Floats:
    rows, columns = shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].reshape(2, -1)
    return np.stack([np.ones_like(x), x, y, x * x - 0.43, y * y - 0.43, x * y], axis=1).astype(np.float32)


def _fit(light: Floats, reference: Floats, smooth: Floats) -> tuple[LightChange, float]:
    """Fit a change of light; return it with the mean absolute residual. light, reference: (R, C)."""
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
    """Measure the change of colour against the nearest reference, in log units.

    Args:
        light: (3, R, C) float32, see `View.light`.
        references: (N, 3, R, C) float32.

    Returns:
        The median change over blocks of red and of blue relative to green, (2,) float32, and by how much a few blocks
        deviate from it.
    """
    tint, tints = (values[..., [0, 2], :, :] - values[..., 1:2, :, :] for values in (light, references))
    changes = (tint - tints).reshape(len(tints), 2, -1)
    medians = np.median(changes, axis=2)
    nearest = int(np.abs(medians).max(axis=1).argmin())
    deviations = np.abs(changes - medians[..., np.newaxis]).max(axis=1)
    return np.asarray(medians[nearest], np.float32), float(np.quantile(deviations, _FEW, axis=1).min())


def foreign_levels(levels: Floats, references: Floats) -> tuple[Floats, Floats]:
    """Measure how far each block's grey levels are from those of the references, in log units.

    Args:
        levels: (R, C, 3) float32, see `View.levels`.
        references: (N, R, C, 3) float32.

    Returns:
        Two arrays (R, C) float32: the distance to the nearest block anywhere in a reference, and to the nearest block
        in the same place or next to it.
    """
    rows, columns = levels.shape[:2]
    distances, _ = KDTree(references.reshape(-1, 3)).query(levels.reshape(-1, 3), p=np.inf)
    anywhere = np.asarray(distances, np.float32)
    padded = np.pad(references, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    nearby = np.full((rows, columns), np.inf, np.float32)
    for i in range(3):
        for j in range(3):
            difference = np.abs(levels - padded[:, i : i + rows, j : j + columns])
            largest = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
            nearby = np.minimum(nearby, largest.min(axis=0))
    return anywhere.reshape(rows, columns), nearby
