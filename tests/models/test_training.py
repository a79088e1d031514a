from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fitting import CONTEXT
from torch import Tensor, nn

from raybench.models.settings import Steps
from raybench.models.tensors import to_tensor
from raybench.models.training import descend

CHOSEN = Steps(steps=12, batch=8, lr=0.5)
Parts = tuple[nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm2d]


class Noise:
    """Eight images, 8x8."""

    def __init__(self) -> None:
        self.all = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        return self.all[list(indices)]


@pytest.fixture
def trained() -> Parts:
    """A convolution and its batch norm, trained by steps too long to keep up with, and a frozen batch norm."""
    torch.manual_seed(0)
    convolution, norm, frozen = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    frozen.requires_grad_(False)
    torch.nn.init.constant_(frozen.get_buffer("running_mean"), 7.0)
    module = nn.Sequential(convolution, norm, frozen)

    def loss(batch: Tensor) -> Tensor:
        frozen.eval()  # as anomalib's extractors of frozen backbones do
        found: Tensor = module(batch)
        return -found.square().mean()

    optimiser = torch.optim.SGD([*convolution.parameters(), *norm.parameters()], lr=CHOSEN.lr, momentum=0.9)
    done = descend(module, optimiser, loss, Noise(), CHOSEN, CONTEXT)
    assert (len(done.losses), done.stopped) == (12, "all steps done")
    return convolution, norm, frozen


def test_batch_norms_hold_statistics_of_the_trained_network(trained: Parts) -> None:
    convolution, norm, _ = trained
    convolved = convolution(to_tensor(Noise().batch(range(8)), torch.device("cpu")))
    torch.testing.assert_close(norm.running_mean, convolved.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, convolved.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_batch_norms_of_a_frozen_backbone_stay(trained: Parts) -> None:
    assert trained[2].get_buffer("running_mean").tolist() == [7.0] * 4
