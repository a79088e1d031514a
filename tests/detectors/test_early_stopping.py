from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from raybench.detectors.early_stopping import (
    LEAST_STEPS,
    PATIENCE,
    EarlyStopping,
    check_interval,
    held_back_count,
    seeded,
)

COUNT = 20 * LEAST_STEPS


class CountedTraining:
    """A module of one weight that counts the steps, and losses that are training."""

    def __init__(self, losses: list[float]) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.module.register_parameter("frozen", self.frozen)
        self._losses = iter(losses)
        self.stopping = EarlyStopping(self.module, lambda: next(self._losses))

    def run(self, count: int = COUNT) -> int:
        done = 0
        for _ in self.stopping.steps(range(count), count):
            done += 1
            with torch.no_grad():
                self.module.weight.add_(1)
                self.frozen.add_(1)
        return done


def falling() -> Iterator[float]:
    return (1.0 / (1 + at) for at in range(100))


def test_a_loss_that_falls_ends_nothing() -> None:
    training = CountedTraining(list(falling()))
    assert training.run() == COUNT
    assert not training.stopping.reached
    assert len(training.stopping.losses) == COUNT // LEAST_STEPS - 1
    assert training.module.weight.item() == COUNT


def test_it_ends_when_no_look_was_better_and_goes_back_to_the_best() -> None:
    training = CountedTraining([5.0, 3.0, 2.0, 2.5, 1.999, *[2.1] * 10])  # 1.999 is no progress to speak of
    assert training.run() == (3 + PATIENCE) * LEAST_STEPS
    assert training.stopping.reached
    assert training.module.weight.item() == 3 * LEAST_STEPS
    assert training.frozen.item() == 1 + (3 + PATIENCE) * LEAST_STEPS


@pytest.mark.parametrize("best", [-1.0, 0.0])
def test_losses_may_be_negative(best: float) -> None:
    training = CountedTraining([best + 1, best, *[best] * 20])
    assert training.run() == (2 + PATIENCE) * LEAST_STEPS


def test_losses_that_are_not_numbers_end_it() -> None:
    training = CountedTraining([float("nan")] * 20)
    assert training.run() == (1 + PATIENCE) * LEAST_STEPS


def test_steps_too_few_to_tell_are_not_looked_at() -> None:
    few = (PATIENCE + 1) * LEAST_STEPS
    training = CountedTraining([])
    assert training.run(few) == few
    assert (check_interval(few), check_interval(few + 1)) == (0, LEAST_STEPS)
    assert check_interval(70_000) == 3500


@pytest.mark.parametrize(
    ("images", "steps", "held"), [(120, 1000, 7), (15, 1000, 0), (10_000, 1000, 16), (120, 150, 0)]
)
def test_few_images_are_held_back_and_none_for_nothing(images: int, steps: int, held: int) -> None:
    assert held_back_count(images, steps) == held


def test_looking_draws_the_same_and_leaves_no_trace() -> None:
    cpu = torch.device("cpu")
    before = torch.random.get_rng_state()
    looks = {seeded(lambda: float(torch.rand(())), 3, cpu) for _ in range(3)}
    assert len(looks) == 1
    assert torch.equal(torch.random.get_rng_state(), before)
