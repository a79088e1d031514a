"""When more steps no longer help: the loss on OK images that no step sees has stopped falling.

That is no guide to quality: on kolektor_sdd reverse distillation finds fewer defects the longer it trains, while its
loss on OK images falls and falls. What ends here is training that learns nothing more, or learns its images by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

CHECKS, LEAST_STEPS = 20, 50  # looks at the loss over all steps, and steps between two at least
PATIENCE = 5  # looks without a better loss
SHARE, MOST = 16, 16  # one image of so many is held back, at most so many
_BETTER = 1e-3  # of the best loss: less is no progress


class EarlyStopping:
    """Ends the steps of `module`, and gives it back the parameters that it had at its best look.

    loss: on images that are held back. losses: at each look. reached: whether the steps were ended.
    """

    def __init__(self, module: nn.Module, loss: Callable[[], float]) -> None:
        self._module, self._loss = module, loss
        self.losses: list[float] = []
        self.reached = False
        self._best = 0
        self._kept: list[Tensor] = []

    def steps(self, steps: Iterable[int], count: int) -> Iterator[int]:
        """`steps`, of which there are `count` at most, until the plateau is reached."""
        every = check_interval(count)
        for at in steps:
            if every and at and at % every == 0 and self._look():
                return
            yield at

    def _look(self) -> bool:
        loss = self._loss()
        better = not self.losses or loss < (best := self.losses[self._best]) - _BETTER * abs(best)
        self.losses.append(loss)
        if better:
            self._best = len(self.losses) - 1
            self._kept = [each.detach().clone() for each in self._trained()]
        self.reached = len(self.losses) - 1 - self._best >= PATIENCE
        if self.reached:
            with torch.no_grad():
                for each, kept in zip(self._trained(), self._kept, strict=True):
                    each.copy_(kept)
        return self.reached

    def _trained(self) -> Iterator[nn.Parameter]:
        return (each for each in self._module.parameters() if each.requires_grad)


def check_interval(count: int) -> int:
    """Steps between two looks at the loss; 0 where `count` steps are too few for a plateau to be told."""
    every = max(LEAST_STEPS, count // CHECKS)
    return every if count > (PATIENCE + 1) * every else 0


def held_back_count(images: int, steps: int) -> int:
    """How many of so many images to hold back: none where nobody would look at them."""
    return min(MOST, images // SHARE) if check_interval(steps) else 0


def seeded(loss: Callable[[], float], seed: int, device: torch.device) -> float:
    """`loss()` with the same random draws at every look, and no trace left in the random state."""
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return loss()
