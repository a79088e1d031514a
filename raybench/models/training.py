"""The optimiser loop of iteration models: seeded batches, a budget, an early stop on OK images held back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.models.base import FitContext, TrainImages
from raybench.models.settings import Steps
from raybench.models.tensors import Clock, Draws, Subset, to_tensor

CHECKS, LEAST_STEPS = 20, 10  # checks of the held-back loss over all steps, and steps between two at least
PATIENCE = 5  # checks without a new best before training stops
_HELD_BACK, _HELD_BACK_SHARE = 8, 8  # an eighth of the images, at most eight
_BETTER = 1e-3  # of the best loss: less is no progress

LossOf = Callable[[Tensor], Tensor]


@dataclass
class Plateau:
    """Has the held-back loss stopped falling?"""

    best: float = float("inf")
    waited: int = 0

    def reached(self, loss: float) -> bool:
        if loss < self.best - _BETTER * abs(self.best) or self.best == float("inf"):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.waited >= PATIENCE


def steps_between_checks(steps: int) -> int:
    return max(LEAST_STEPS, steps // CHECKS)


@dataclass
class Trained:
    """What a loop did. loss_first, loss_last: means over the first and the last ten steps."""

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    held_back: int = 0
    held_back_loss: float | None = None
    stopped: str = "all steps done"

    def details(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "stopped": self.stopped,
            "loss_first": _mean(self.losses[:10]),
            "loss_last": _mean(self.losses[-10:]),
            "held_back": self.held_back,
            "held_back_loss": self.held_back_loss,
        }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def descend(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: LossOf,
    images: TrainImages,
    chosen: Steps,
    context: FitContext,
) -> Trained:
    """Minimise `loss_of` over batches (B, 3, H, W) in [0, 1] of OK images.

    Ends with the steps of `chosen`, the budget of `context`, or when the loss on an eighth of the images, which no
    step sees, has not fallen for PATIENCE of CHECKS checks. With fewer than eight images none are held back.
    """

    def step(batch: Tensor) -> Tensor:
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    return walk(module, step, loss_of, images, chosen, context)


def walk(
    module: nn.Module, step: LossOf, loss_of: LossOf, images: TrainImages, chosen: Steps, context: FitContext
) -> Trained:
    """As `descend`, with optimiser steps of the model's own: `step` takes a batch and returns its loss."""
    device = torch.device(context.device)
    order = np.random.default_rng(context.seed).permutation(len(images)).tolist()
    held = order[: min(_HELD_BACK, len(order) // _HELD_BACK_SHARE)]
    kept = Subset(images, order[len(held) :])
    draws, clock, plateau, done = Draws(len(kept), context.seed), Clock(context.budget_s), Plateau(), Trained()
    done.held_back = len(held)
    every = steps_between_checks(chosen.steps)
    module.train()
    for at in clock.steps(chosen.steps):
        batch = to_tensor(kept.batch(draws.take(chosen.batch)), device)
        done.losses.append(float(step(batch)))
        done.steps += 1
        if held and (at + 1) % every == 0:
            done.held_back_loss = _held_back_loss(module, loss_of, to_tensor(images.batch(held), device), context.seed)
            if plateau.reached(done.held_back_loss):
                done.stopped = "held-back loss no longer fell"
                break
    if clock.stopped_early:
        done.stopped = "time budget spent"
    return done


def _held_back_loss(module: nn.Module, loss_of: LossOf, batch: Tensor, seed: int) -> float:
    """The same random draws at every check, and no trace left in batch norm or the random state."""
    with torch.no_grad(), _norms_fixed(module), torch.random.fork_rng():
        torch.manual_seed(seed)
        return float(loss_of(batch))


@contextlib.contextmanager
def _norms_fixed(module: nn.Module) -> Iterator[None]:
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training]
    for part in norms:
        part.eval()
    try:
        yield
    finally:
        for part in norms:
            part.train()
