"""Has the light changed? A smooth field and a tone curve are fitted to the difference from each reference.

The difference of log medians on a grid of blocks is modelled as gain + a plane + a quadric + (gamma - 1) x log
brightness, robustly (iteratively reweighted least squares, Huber's weights), so that something local does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from raybench.findings.signals.views import Floats

_ROUNDS = 4
_HUBER = 1.5
_LEAST_SIGMA = 0.02
_TRIED, _NEAREST = 10, 4  # of the references
_RIDGE = np.diag([0.0, 0, 0, 0.5, 0.5, 0.5, 0.5])


@dataclass(frozen=True)
class LightChange:
    """All in log units. gain: the mean of what is modelled. bend: root mean square of plane and quadric. gamma: of its
    logarithm. spot: root mean square of what is left and wider than two blocks. explained: share of the difference that
    the model explains, 0 to 1."""

    gain: float
    bend: float
    gamma: float
    spot: float
    explained: float


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
    )
    return change, float(np.mean(np.abs(left)))


def tint_change(tint: Floats, references: Floats) -> Floats:
    """(2,): how far red and blue against green lie from the nearest reference, in log units. tint: (2,), references:
    (N, 2)."""
    changes = tint - references
    nearest: Floats = changes[np.abs(changes).max(axis=1).argmin()]
    return nearest


def new_tones(tones: Floats, references: Floats) -> float:
    """The share of the pixels whose brightness no reference has as often. tones: (T,), references: (N, T)."""
    return float(np.maximum(tones - references.max(axis=0), 0).sum())
