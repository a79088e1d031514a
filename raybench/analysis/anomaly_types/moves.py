"""Detect moves of the whole scene: compare the best fit of any reference in any pose with the best fit in place.

The fit is the normalised cross-correlation over the overlap, computed by Fourier transform, of patterns that do not
depend on light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from raybench.analysis.anomaly_types.views import Floats

REACH = 0.25  # of a side: the largest shift searched
STEP, WIDEST = 3.0, 21.0  # degrees
TIE = 0.03  # of correlation: within it the simplest pose, upright, wins
POSED = 8  # number of references tried in other poses than upright
Complex = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Pose:
    """Orientation of an image relative to a reference."""

    name: str
    turned: float = 0.0
    """Rotation in degrees, anticlockwise."""
    flip: int | None = None
    """Flip code of `cv2.flip`; None for no flip."""

    def apply(self, pattern: Floats) -> Floats:
        """Return the pattern, (h, w) float32, in this pose."""
        if self.flip is not None:
            return np.ascontiguousarray(cv2.flip(pattern, self.flip), np.float32)
        height, width = pattern.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.turned, 1.0)
        return cv2.warpAffine(pattern, matrix, (width, height)).astype(np.float32)


UPRIGHT = Pose("in place")
POSES = (
    UPRIGHT,
    *(Pose("rotated", float(angle)) for angle in np.arange(-WIDEST, WIDEST + 1, STEP) if angle),
    Pose("mirrored left to right", flip=1),
    Pose("mirrored top to bottom", flip=0),
    Pose("upside down", flip=-1),
)


@dataclass(frozen=True)
class Move:
    """The move of an image relative to the references."""

    pose: Pose
    """Pose of the best fit."""
    dy: float
    """Shift of the best fit downwards, as a share of the pattern's height."""
    dx: float
    """Shift of the best fit to the right, as a share of the pattern's width."""
    fit: float
    """Correlation of the best fit."""
    still: float
    """Correlation of the best fit in place."""
    aligned: npt.NDArray[np.float64]
    """(N, 3) float64: index of each reference, and the shift dy, dx of its best fit in place as shares; the best
    reference first."""
    size: tuple[int, int]
    """(h, w) of the pattern."""

    @property
    def shift_in_place_px(self) -> npt.NDArray[np.float64]:
        """(2,) float64: dy, dx of the reference that fits best in place, in pixels of a pattern."""
        return self.aligned[0, 1:] * self.size

    @property
    def gain(self) -> float:
        """Correlation gained by moving."""
        return self.fit - self.still


@dataclass(frozen=True)
class Spectra:
    """Reference patterns, prepared for correlation."""

    patterns: Floats
    """(N, h, w) float32."""
    transformed: Complex
    """(N, ...) complex64, their Fourier transforms."""
    energies: Floats
    """(N, h', w') float32, energy of the overlapping part at each shift."""


def spectra(patterns: Floats) -> Spectra:
    """Prepare reference patterns, (N, h, w) float32, for correlation."""
    shape = _padded(patterns.shape[1:])
    transformed = fft.rfft2(patterns, s=shape)
    ones = fft.rfft2(np.ones(patterns.shape[1:], np.float32), s=shape)
    energies = fft.irfft2(ones * np.conj(fft.rfft2(patterns**2, s=shape)), s=shape)
    return Spectra(patterns, transformed, _window(energies, patterns.shape[1:]))


def best_move(
    pattern: Floats, references: Spectra, near_px: int, keep: npt.NDArray[np.intp], posed: bool = True
) -> Move:
    """Find the pose and shift in which a pattern fits a reference best.

    Args:
        pattern: (h, w) float32.
        references: Prepared reference patterns.
        near_px: Largest shift that still counts as in place, in pixels of the pattern.
        keep: Indices of the references to compare with.
        posed: Whether to try poses other than upright.
    """
    transformed, energies = references.transformed[keep], references.energies[keep]
    fits = [_fits(pattern, transformed, energies)]
    fits += [_fits(pose.apply(pattern), transformed[:POSED], energies[:POSED]) for pose in POSES[1:] if posed]
    tops = [float(correlations.max()) for correlations in fits]
    best = 0 if tops[0] >= max(tops) - TIE else int(np.argmax(tops))
    _, row, column = np.unravel_index(int(fits[best].argmax()), fits[best].shape)
    shift = (np.array([row, column]) - np.array(fits[best].shape[1:]) // 2) / pattern.shape
    still, aligned = _in_place(fits[0], pattern.shape, near_px)
    aligned[:, 0] = keep[aligned[:, 0].astype(int)]
    return Move(POSES[best], float(shift[0]), float(shift[1]), max(tops), still, aligned, pattern.shape)


def _in_place(fits: Floats, size: Sequence[int], near_px: int) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the correlation of the best fit in place, and `Move.aligned`."""
    centre = np.array(fits.shape[1:]) // 2
    y, x = (np.abs(np.arange(side) - side // 2) for side in fits.shape[1:])
    near = np.where(np.maximum(y[:, np.newaxis], x) <= near_px, fits, -1.0).reshape(len(fits), -1)
    rows, columns = np.unravel_index(near.argmax(axis=1), fits.shape[1:])
    tops = near.max(axis=1)
    order = np.argsort(-tops, kind="stable")
    shifts = (np.stack([rows, columns], axis=1) - centre) / np.asarray(size)
    return float(tops.max()), np.column_stack([order, shifts[order]])


def _fits(pattern: Floats, transformed: Complex, energies: Floats) -> Floats:
    """Correlate a pattern with each reference at each shift, (N, 2 reach_y + 1, 2 reach_x + 1) float32."""
    size = pattern.shape
    shape = _padded(size)
    energy = fft.irfft2(
        fft.rfft2(pattern**2, s=shape) * np.conj(fft.rfft2(np.ones(size, np.float32), s=shape)), s=shape
    )
    both = fft.irfft2(fft.rfft2(pattern, s=shape) * np.conj(transformed), s=shape)
    norm = np.sqrt(np.maximum(_window(energy[np.newaxis], size) * energies, 1e-6))
    return np.asarray(_window(both, size) / norm, np.float32)


def _padded(size: Sequence[int]) -> tuple[int, int]:
    height, width = (fft.next_fast_len(side + int(REACH * side) + 1, real=True) for side in size)
    return height, width


def _window(circular: npt.NDArray[np.floating], size: Sequence[int]) -> Floats:
    """Cut out shifts from -reach to reach of a circular array that starts at shift zero."""
    reach_y, reach_x = (int(REACH * side) for side in size)
    rolled = np.roll(circular, (reach_y, reach_x), axis=(-2, -1))
    return np.asarray(rolled[..., : 2 * reach_y + 1, : 2 * reach_x + 1], np.float32)


def turned_gain(directions: Floats, references: Floats) -> float:
    """Measure how much better gradient directions fit those of a reference after a rotation.

    Args:
        directions: (A,) float32, see `View.directions`.
        references: (N, A) float32.

    Returns:
        Largest Bhattacharyya coefficient over all rotations, minus the largest without or with the smallest rotation.
    """
    roots, reference_roots = np.sqrt(directions), np.sqrt(references)
    fits = np.array([float((reference_roots @ np.roll(roots, lag)).max()) for lag in range(len(roots))])
    return float(fits.max() - fits[[0, 1, -1]].max())
