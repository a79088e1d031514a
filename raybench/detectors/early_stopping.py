"""Early stopping: end training when the loss on held-back OK images no longer falls.

This loss is no guide to quality: on kolektor_sdd reverse distillation finds fewer defects the longer it trains, while
its loss on OK images keeps falling. Early stopping only ends training that learns nothing more or overfits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

CHECKS = 20
"""Checks of the loss during all steps of a training."""
LEAST_STEPS = 50
"""The least number of steps between two checks."""
PATIENCE = 5
"""Checks without a better loss that end training."""
HELD_BACK_SHARE = 16
"""One image of this number is held back."""
MAX_HELD_BACK = 16
"""The most images that are held back."""
_MIN_IMPROVEMENT = 1e-3  # of the best loss


class EarlyStopping:
    """Ends a training and restores the parameters with the best loss.

    Args:
        module: The network in training.
        loss: Computes the loss on held-back images.
    """

    def __init__(self, module: nn.Module, loss: Callable[[], float]) -> None:
        self._module, self._loss = module, loss
        self.losses: list[float] = []
        """The loss at each check."""
        self.reached = False
        """Whether training was ended."""
        self._best = 0
        self._best_parameters: list[Tensor] = []

    def steps(self, steps: Iterable[int], count: int) -> Iterator[int]:
        """Yield from `steps`, at most `count`, until the loss no longer falls."""
        interval = check_interval(count)
        for step in steps:
            if interval and step and step % interval == 0 and self._check():
                return
            yield step

    def _check(self) -> bool:
        loss = self._loss()
        better = not self.losses or loss < (best := self.losses[self._best]) - _MIN_IMPROVEMENT * abs(best)
        self.losses.append(loss)
        if better:
            self._best = len(self.losses) - 1
            self._best_parameters = [each.detach().clone() for each in self._trained()]
        self.reached = len(self.losses) - 1 - self._best >= PATIENCE
        if self.reached:
            with torch.no_grad():
                for parameter, best_value in zip(self._trained(), self._best_parameters, strict=True):
                    parameter.copy_(best_value)
        return self.reached

    def _trained(self) -> Iterator[nn.Parameter]:
        return (each for each in self._module.parameters() if each.requires_grad)


def check_interval(count: int) -> int:
    """Return the steps between two checks of the loss; 0 if `count` steps are too few for early stopping."""
    interval = max(LEAST_STEPS, count // CHECKS)
    return interval if count > (PATIENCE + 1) * interval else 0


def held_back_count(images: int, steps: int) -> int:
    """Return how many of `images` to hold back: 0 if `steps` are too few for early stopping."""
    return min(MAX_HELD_BACK, images // HELD_BACK_SHARE) if check_interval(steps) else 0


def seeded(loss: Callable[[], float], seed: int, device: torch.device) -> float:
    """Compute `loss` with the same random draws in every call, and restore the random state."""
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return loss()
