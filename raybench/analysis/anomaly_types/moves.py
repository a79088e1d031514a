"""Has the whole scene moved? Every reference is laid over the image in every way, and the best fit is compared with the
best fit in place.

The fit is normalised cross-correlation over what overlaps, by Fourier transform, of patterns that light leaves alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

from raybench.analysis.anomaly_types.views import Floats

REACH = 0.25  # of a side: how far a shift is looked for
STEP, WIDEST = 3.0, 21.0  # degrees
TIE = 0.03  # of correlation: within, the simpler story is told: upright
POSED = 8  # references that are tried in other poses than upright
Complex = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Pose:
    """How an image lies. turned: degrees, anticlockwise. flip: as in `cv2.flip`, None for upright."""

    name: str
    turned: float = 0.0
    flip: int | None = None

    def apply(self, pattern: Floats) -> Floats:
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
    """fit, still: correlation of the best fit and of the best one in place. dy, dx: of the best, as shares of the
    pattern's height and width, downwards and to the right. aligned: (N, 3) float64, of each reference its index, and
    where in place it fits best as shares dy, dx; the best reference first. size: (h, w) of the pattern."""

    pose: Pose
    dy: float
    dx: float
    fit: float
    still: float
    aligned: npt.NDArray[np.float64]
    size: tuple[int, int]

    @property
    def shift_in_place_px(self) -> npt.NDArray[np.float64]:
        """(2,): dy, dx of the reference that fits best in place, in pixels of a pattern."""
        return self.aligned[0, 1:] * self.size

    @property
    def gain(self) -> float:
        return self.fit - self.still


@dataclass(frozen=True)
class Spectra:
    """Of reference patterns. patterns: (N, h, w) float32. transformed: (N, ...) complex64. energies: (N, h', w')
    float32, of the part that overlaps at each shift."""

    patterns: Floats
    transformed: Complex
    energies: Floats


def spectra(patterns: Floats) -> Spectra:
    """patterns: (N, h, w) float32."""
    shape = _padded(patterns.shape[1:])
    transformed = fft.rfft2(patterns, s=shape)
    ones = fft.rfft2(np.ones(patterns.shape[1:], np.float32), s=shape)
    energies = fft.irfft2(ones * np.conj(fft.rfft2(patterns**2, s=shape)), s=shape)
    return Spectra(patterns, transformed, _window(energies, patterns.shape[1:]))


def best_move(
    pattern: Floats, references: Spectra, near_px: int, keep: npt.NDArray[np.intp], posed: bool = True
) -> Move:
    """pattern: (h, w) float32. near_px: how far is still in place. keep: the references to compare with. posed: look
    at other poses than upright."""
    transformed, energies = references.transformed[keep], references.energies[keep]
    found = [_fits(pattern, transformed, energies)]
    found += [_fits(pose.apply(pattern), transformed[:POSED], energies[:POSED]) for pose in POSES[1:] if posed]
    tops = [float(fits.max()) for fits in found]
    best = 0 if tops[0] >= max(tops) - TIE else int(np.argmax(tops))
    _, row, column = np.unravel_index(int(found[best].argmax()), found[best].shape)
    shift = (np.array([row, column]) - np.array(found[best].shape[1:]) // 2) / pattern.shape
    still, aligned = _in_place(found[0], pattern.shape, near_px)
    aligned[:, 0] = keep[aligned[:, 0].astype(int)]
    return Move(POSES[best], float(shift[0]), float(shift[1]), max(tops), still, aligned, pattern.shape)


def _in_place(fits: Floats, size: Sequence[int], near_px: int) -> tuple[float, npt.NDArray[np.float64]]:
    """The best fit in place, and `Move.aligned`."""
    centre = np.array(fits.shape[1:]) // 2
    y, x = (np.abs(np.arange(side) - side // 2) for side in fits.shape[1:])
    near = np.where(np.maximum(y[:, np.newaxis], x) <= near_px, fits, -1.0).reshape(len(fits), -1)
    rows, columns = np.unravel_index(near.argmax(axis=1), fits.shape[1:])
    tops = near.max(axis=1)
    order = np.argsort(-tops, kind="stable")
    shifts = (np.stack([rows, columns], axis=1) - centre) / np.asarray(size)
    return float(tops.max()), np.column_stack([order, shifts[order]])


def _fits(pattern: Floats, transformed: Complex, energies: Floats) -> Floats:
    """(N, 2 reach + 1, 2 reach + 1) float32: correlation at each shift with each reference."""
    size = pattern.shape
    shape = _padded(size)
    mine = fft.irfft2(fft.rfft2(pattern**2, s=shape) * np.conj(fft.rfft2(np.ones(size, np.float32), s=shape)), s=shape)
    both = fft.irfft2(fft.rfft2(pattern, s=shape) * np.conj(transformed), s=shape)
    norm = np.sqrt(np.maximum(_window(mine[np.newaxis], size) * energies, 1e-6))
    return np.asarray(_window(both, size) / norm, np.float32)


def _padded(size: Sequence[int]) -> tuple[int, int]:
    height, width = (fft.next_fast_len(side + int(REACH * side) + 1, real=True) for side in size)
    return height, width


def _window(circular: npt.NDArray[np.floating], size: Sequence[int]) -> Floats:
    """Shifts from -reach to reach, from a circular array that starts at zero."""
    reach_y, reach_x = (int(REACH * side) for side in size)
    rolled = np.roll(circular, (reach_y, reach_x), axis=(-2, -1))
    return np.asarray(rolled[..., : 2 * reach_y + 1, : 2 * reach_x + 1], np.float32)


def turned_gain(directions: Floats, references: Floats) -> float:
    """How much better the gradient's directions fit those of a reference when all are turned by one angle: difference
    of Bhattacharyya coefficients. directions: (A,), references: (N, A) float32."""
    mine, theirs = np.sqrt(directions), np.sqrt(references)
    fits = np.array([float((theirs @ np.roll(mine, lag)).max()) for lag in range(len(mine))])
    return float(fits.max() - fits[[0, 1, -1]].max())
