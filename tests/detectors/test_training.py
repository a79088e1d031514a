from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from raybench.detectors.early_stopping import LEAST_STEPS, PATIENCE
from raybench.detectors.settings import Steps
from raybench.detectors.torch_detector import to_tensor
from raybench.detectors.training import Trained, train_loop
from tests.support.fitting import CONTEXT

CHOSEN = Steps(steps=12, batch=8, lr=0.5)
Parts = tuple[nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm2d]


class Noise:
    """Images of 8x8 pixels. seen: which of them were asked for."""

    def __init__(self, count: int = 8) -> None:
        self.all = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        self.seen: list[int] = []

    def __len__(self) -> int:
        return len(self.all)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        self.seen += indices
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
    done = train_loop(module, optimiser, loss, Noise(), CHOSEN, CONTEXT)
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


def stuck(steps: int, count: int) -> tuple[Trained, list[int], nn.Conv2d]:
    """Training that learns nothing: what it did, the images that its steps saw, and what it trained."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 1, 1)
    images, stepped = Noise(count), list[int]()

    def loss(batch: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            stepped.extend(images.seen[-len(batch) :])
        found: Tensor = layer(batch)
        return found.mean() * 0 + 1

    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    done = train_loop(layer, optimiser, loss, images, Steps(steps=steps, batch=8), CONTEXT)
    return done, stepped, layer


def test_training_that_learns_nothing_ends() -> None:
    done, stepped, _ = stuck(steps=1000, count=64)
    assert (len(done.losses), done.stopped) == ((1 + PATIENCE) * LEAST_STEPS, "held-back loss no longer fell")
    assert done.details()["train_steps"] == {"done": len(done.losses), "planned": 1000, "budget_s": None, "enough": 0}
    assert done.held_back == 64 // 16
    assert len(set(stepped)) == 64 - done.held_back
    assert done.details()["held_back_losses"] == [1.0] * (1 + PATIENCE)


def test_short_training_sees_all_images_and_is_not_looked_at() -> None:
    done, stepped, _ = stuck(steps=150, count=64)
    assert (len(done.losses), done.stopped, done.held_back) == (150, "all steps done", 0)
    assert len(set(stepped)) == 64


def test_a_time_budget_that_ends_training_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    layer = nn.Conv2d(3, 1, 1)

    def loss(batch: Tensor) -> Tensor:
        now[0] += 1.0
        found: Tensor = layer(batch)
        return found.mean()

    def steps(budget_s: float | None) -> dict[str, object]:
        context = replace(CONTEXT, budget_s=budget_s)
        done = train_loop(layer, torch.optim.SGD(layer.parameters(), lr=0.1), loss, Noise(), CHOSEN, context)
        return done.details()["train_steps"]  # type: ignore[no-any-return]

    assert steps(5.0) == {"done": 6, "planned": 12, "budget_s": 5.0, "enough": 0}
    assert steps(60.0) == steps(None) == {"done": 12, "planned": 12, "budget_s": None, "enough": 0}


class Enough(Exception):
    """Steps for a test."""


def losses(steps: int) -> list[float]:
    """The first of so many steps."""
    torch.manual_seed(0)
    module, found = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)), list[float]()

    def loss(batch: Tensor) -> Tensor:
        value: Tensor = module(batch).square().mean()
        if torch.is_grad_enabled():
            found.append(value.item())
        if len(found) > 2 * LEAST_STEPS:
            raise Enough
        return value

    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    with pytest.raises(Enough):
        train_loop(module, optimiser, loss, Noise(64), Steps(steps=steps, batch=8), CONTEXT)
    return found


def test_looking_does_not_change_the_steps() -> None:
    """The first looks after 50 steps, the second not before 100."""
    assert losses(1000) == losses(2000)
