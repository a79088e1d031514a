"""Perlin noise, the shapes of synthetic anomalies: anomalib's `generate_perlin_noise` for a whole batch.

anomalib makes one map at a time and waits for the device twelve times for each, on "cuda" wherever there is a GPU, even
in a run on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SCALES = 6  # a side of the noise has 1, 2, 4 ... 32 cells
_MAX_CELLS = 2 ** (_SCALES - 1)


def draw_noise(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return random noise (count, height, width) float32, about in [-1, 1]; each map has its own number of cells."""
    cells = 2 ** torch.randint(_SCALES, (count, 2), device=device)
    angles = 2 * math.pi * torch.rand(count, _MAX_CELLS + 1, _MAX_CELLS + 1, device=device)
    return noise(cells, angles, height, width)


def noise(cells: Tensor, angles: Tensor, height: int, width: int) -> Tensor:
    """Interpolate between the gradients at the corners of cells.

    Args:
        cells: (B, 2) int64: number of cells of each map, vertically and horizontally. Powers of two.
        angles: (B, R, C) float32: angles of the gradients at the corners. R and C exceed all numbers of cells.
        height: Height of the maps. The cells divide the next power of two.
        width: Width of the maps, likewise.

    Returns:
        (B, height, width) float32.
    """
    rows, y = _places(cells[:, 0], height)
    columns, x = _places(cells[:, 1], width)
    y, x = y[:, :, None], x[:, None, :]
    gradients = torch.stack((angles.cos(), angles.sin()), -1)
    maps = torch.arange(len(cells), device=cells.device)[:, None, None]

    def slope(down: int, right: int) -> Tensor:
        corner = gradients[maps, rows[:, :, None] + down, columns[:, None, :] + right]
        return (y - down) * corner[..., 0] + (x - right) * corner[..., 1]

    left, right = (torch.lerp(slope(0, side), slope(1, side), _fade(y)) for side in (0, 1))
    return math.sqrt(2) * torch.lerp(left, right, _fade(x))


def stretched(maps: Tensor, threshold: float) -> Tensor:
    """Return maps (B, H, W), each without a value above `threshold` stretched to [-1, 1]."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
    return torch.where(high > threshold, maps, (maps - low) / spread * 2 - 1)


def _places(cells: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each pixel of a side, (B, length) int64, and the place in it, (B, length) in [0, 1)."""
    padded = 1 << (length - 1).bit_length()
    places = torch.arange(length, device=cells.device) * cells[:, None] / padded
    first = places.floor()
    return first.long(), places - first


def _fade(places: Tensor) -> Tensor:
    return 6 * places**5 - 15 * places**4 + 10 * places**3
