"""Batched noise against anomalib's, which makes one map at a time, given the same cells and angles."""

from __future__ import annotations

import pytest
import torch

from raybench.detectors import perlin
from raybench.detectors.anomalib_parts import generate_perlin_noise

CPU = torch.device("cpu")
CELLS = torch.tensor([[1, 1], [2, 32], [32, 2], [8, 8], [16, 4]])


def angles() -> torch.Tensor:
    return 2 * torch.pi * torch.rand((len(CELLS), 33, 33), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 96), (100, 33)])
def test_noise_is_anomalibs(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    found = perlin.noise(CELLS, angles(), height, width)
    for cells, turned, ours in zip(CELLS.tolist(), angles(), found, strict=True):
        drawn = turned[: cells[0] + 1, : cells[1] + 1] / (2 * torch.pi)
        monkeypatch.setattr(torch, "rand", lambda *shape, drawn=drawn, **rest: drawn)
        theirs = generate_perlin_noise(height, width, scale=tuple(cells), device=CPU)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_draws_cover_all_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """As anomalib draws them: 1 to 32 cells for each side alone, and any angle."""
    monkeypatch.setattr(perlin, "noise", lambda cells, angles, height, width: (cells, angles))
    torch.manual_seed(0)
    cells, turned = perlin.draw_noise(200, 64, 64, CPU)
    assert cells.shape == (200, 2)
    for side in (0, 1):
        assert cells[:, side].unique().tolist() == [1, 2, 4, 8, 16, 32]
    assert turned.shape == (200, 33, 33)
    assert 0 <= float(turned.min()) < 0.01 < 6.27 < float(turned.max()) <= 2 * torch.pi


def test_maps_that_stay_below_the_threshold_are_stretched() -> None:
    maps = torch.tensor([[[0.1, 0.2]], [[0.1, 0.9]], [[0.3, 0.3]]])
    expected = torch.tensor([[[-1.0, 1.0]], [[0.1, 0.9]], [[-1.0, -1.0]]])
    torch.testing.assert_close(perlin.stretched(maps, 0.5), expected)
