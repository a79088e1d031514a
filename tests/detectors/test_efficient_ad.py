"""When its two trainings end. The model is a small one with the parts of anomalib's, which takes seconds a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raybench.detectors import early_stopping
from raybench.detectors.efficient_ad import _Pair

CHANNELS = 4


class _Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.Dropout(0.5))

    def forward(self, images: Tensor, size: torch.Size) -> Tensor:
        found: Tensor = self.layers(images)
        assert found.shape[-2:] == size
        return found


class SmallModel(nn.Module):
    """Images (N, 3, H, W); features (N, CHANNELS, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher = nn.Conv2d(3, CHANNELS, 1).requires_grad_(False)
        self.student, self.ae = nn.Conv2d(3, 2 * CHANNELS, 1), _Autoencoder()
        self.mean_std = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(1, CHANNELS, 1, 1), requires_grad=False) for name in ("mean", "std")}
        )

    def get_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.mean_std["mean"], self.mean_std["std"]
        taught, copied = self.student(images).chunk(2, 1)
        rebuilt = self.ae(images, images.shape[-2:])
        return ((self.teacher(images) - mean) / std - taught).square(), (rebuilt - copied).square()

    def forward(self, images: Tensor, not_ok: Tensor) -> tuple[Tensor, ...]:
        return (*(each.mean() for each in self.get_maps(images)), self.student(not_ok).square().mean())


@pytest.fixture(autouse=True)
def looks_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_stopping, "LEAST_STEPS", 1)
    monkeypatch.setattr(early_stopping, "CHECKS", 1000)


def pair(lr: float) -> _Pair:
    torch.manual_seed(1)
    images = torch.rand(6, 3, 8, 8)
    return _Pair(SmallModel(), images[:4], images[4:], seed=0, lr=lr)


def test_looks_at_images_held_back_end_nothing_that_still_gets_better() -> None:
    found = pair(lr=1e-3)
    assert found.autoencode(found.alone.steps(range(20), 20)) == 20
    assert found.join(found.together.steps(range(20), 20), lambda count: torch.rand(count, 3, 8, 8)) == 20
    for each in (found.alone, found.together):
        assert each.losses == sorted(each.losses, reverse=True)
        assert len(each.losses) == 19


@pytest.mark.parametrize("training", ["alone", "together"])
def test_what_gets_worse_ends_and_goes_back_to_its_best_look(training: str) -> None:
    found = pair(lr=10.0)
    ends, loss = (found.alone, found._apart) if training == "alone" else (found.together, found._darkness)
    steps = ends.steps(range(1000), 1000)
    done = (
        found.autoencode(steps) if training == "alone" else found.join(steps, lambda count: torch.rand(count, 3, 8, 8))
    )
    best = min(range(len(ends.losses)), key=ends.losses.__getitem__)
    assert ends.reached
    assert done == best + 1 + early_stopping.PATIENCE
    assert found._unseen(loss) == pytest.approx(ends.losses[best], rel=1e-6)


def test_a_look_leaves_training_as_it_was() -> None:
    found = pair(lr=1e-3)
    found.model.train()
    assert found._unseen(found._darkness) == found._unseen(found._darkness)
    assert found.model.training
    assert found.model.ae.layers[1].training
    assert all(each.grad is None for each in found.model.parameters())
