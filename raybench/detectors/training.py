"""The optimiser loop of iteration models: seeded batches of OK images, a number of steps, a time budget, and an end
where more steps teach nothing (`plateau`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.detectors.batch_norm import frozen_batch_norm, recompute_statistics
from raybench.detectors.early_stopping import EarlyStopping, held_back_count, seeded
from raybench.detectors.protocol import FitContext, TrainImages
from raybench.detectors.settings import Steps
from raybench.detectors.torch_detector import Clock, Draws, Subset, in_batches, to_tensor

LossOf = Callable[[Tensor], Tensor]
_ENDS = 10  # steps
_LOOKED_AT = 32  # images whose statistics trained batch norms have at a look


@dataclass
class Trained:
    """What a loop did. loss_first, loss_last: means over the first and the last ten steps. held_back: images that no
    step saw, and held_back_losses on them."""

    losses: list[float] = field(default_factory=list)
    stopped: str = "all steps done"
    held_back: int = 0
    held_back_losses: list[float] = field(default_factory=list)

    def details(self) -> dict[str, Any]:
        return {
            "steps": len(self.losses),
            "stopped": self.stopped,
            "loss_first": _mean(self.losses[:_ENDS]),
            "loss_last": _mean(self.losses[-_ENDS:]),
            "held_back": self.held_back,
            "held_back_losses": self.held_back_losses,
        }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def train_loop(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss_of: LossOf,
    images: TrainImages,
    chosen: Steps,
    context: FitContext,
) -> Trained:
    """Minimise `loss_of` over batches (B, 3, H, W) in [0, 1] of OK images, until the steps of `chosen` are done, the
    budget of `context` is spent or a plateau is reached. Then the trained batch norms get statistics of the trained
    network."""

    def step(batch: Tensor) -> Tensor:
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    done = train_loop_with(module, step, loss_of, images, chosen, context)
    recompute_statistics(module, loss_of, images, chosen.batch, context)
    return done


def train_loop_with(
    module: nn.Module, step: LossOf, loss_of: LossOf, images: TrainImages, chosen: Steps, context: FitContext
) -> Trained:
    """As `train_loop`, with optimiser steps of the model's own: `step` takes a batch and returns its loss."""
    device, order = torch.device(context.device), np.random.default_rng(context.seed).permutation(len(images)).tolist()
    held = Subset(images, order[: held_back_count(len(images), chosen.steps)])
    kept = Subset(images, sorted(order[len(held) :]))

    def loss() -> float:
        recompute_statistics(module, loss_of, kept, chosen.batch, context, most=_LOOKED_AT)
        with frozen_batch_norm(module):
            losses = [float(loss_of(batch)) * len(batch) for batch in in_batches(held, chosen.batch, device)]
        return sum(losses) / len(held)

    plateau = EarlyStopping(module, lambda: seeded(loss, context.seed, device))
    draws, clock, done = Draws(len(kept), context.seed), Clock(context.budget_s), Trained(held_back=len(held))
    steps = clock.steps(chosen.steps)
    module.train()
    for _ in plateau.steps(steps, chosen.steps) if len(held) else steps:
        done.losses.append(float(step(to_tensor(kept.batch(draws.take(chosen.batch)), device))))
    done.held_back_losses = plateau.losses
    if clock.stopped_early:
        done.stopped = "time budget spent"
    if plateau.reached:
        done.stopped = "held-back loss no longer fell"
    return done
