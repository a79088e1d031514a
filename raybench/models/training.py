"""The optimiser loop of iteration models: seeded batches of OK images, a number of steps, a time budget.

No early stop: a loss on images held back is a poor guide on lines of some hundred images, and would take an eighth of
them from training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.models.base import FitContext, TrainImages
from raybench.models.settings import Steps
from raybench.models.tensors import Clock, Draws, to_tensor

LossOf = Callable[[Tensor], Tensor]
_ENDS = 10  # steps
_SETTLING = 128  # images, at most


@dataclass
class Trained:
    """What a loop did. loss_first, loss_last: means over the first and the last ten steps."""

    losses: list[float] = field(default_factory=list)
    stopped: str = "all steps done"

    def details(self) -> dict[str, Any]:
        return {
            "steps": len(self.losses),
            "stopped": self.stopped,
            "loss_first": _mean(self.losses[:_ENDS]),
            "loss_last": _mean(self.losses[-_ENDS:]),
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
    """Minimise `loss_of` over batches (B, 3, H, W) in [0, 1] of OK images, until the steps of `chosen` are done or
    the budget of `context` is spent. Then the trained batch norms get statistics of the trained network."""

    def step(batch: Tensor) -> Tensor:
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    done = walk(module, step, images, chosen, context)
    _settle(module, loss_of, images, chosen.batch, context)
    return done


def _settle(module: nn.Module, loss_of: LossOf, images: TrainImages, batch: int, context: FitContext) -> None:
    """Precise batch norm (Wu and Johnson 2021, arXiv:2105.07576): running averages lag behind weights that still move,
    which after some hundred steps can be most of a student's error."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.weight.requires_grad]
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average in which all batches count the same
    draws = Draws(len(images), context.seed)
    with torch.no_grad():
        for _ in range(math.ceil(min(_SETTLING, len(images)) / batch)):
            loss_of(to_tensor(images.batch(draws.take(batch)), torch.device(context.device)))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


def walk(module: nn.Module, step: LossOf, images: TrainImages, chosen: Steps, context: FitContext) -> Trained:
    """As `descend`, with optimiser steps of the model's own: `step` takes a batch and returns its loss."""
    device = torch.device(context.device)
    draws, clock, done = Draws(len(images), context.seed), Clock(context.budget_s), Trained()
    module.train()
    for _ in clock.steps(chosen.steps):
        done.losses.append(float(step(to_tensor(images.batch(draws.take(chosen.batch)), device))))
    if clock.stopped_early:
        done.stopped = "time budget spent"
    return done
