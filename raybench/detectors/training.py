"""The training loop: seeded batches of OK images until the steps are done, the time is up or the loss stops falling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raybench.detectors.batch_norm import frozen_batch_norm, recompute_statistics
from raybench.detectors.device import has_tf32, tf32_convolutions
from raybench.detectors.early_stopping import EarlyStopping, held_back_count, seeded
from raybench.detectors.protocol import FitContext, TrainImages
from raybench.detectors.settings import Steps
from raybench.detectors.torch_detector import Clock, Draws, Subset, in_batches, to_tensor

LossOf = Callable[[Tensor], Tensor]
_MEAN_STEPS = 10
_CHECK_IMAGES = 32  # images that give trained batch norms their statistics when the held-back loss is computed


@dataclass
class Trained:
    """The history of a training."""

    losses: list[float] = field(default_factory=list)
    """Loss of each step."""
    stopped: str = "all steps done"
    """The reason why training ended."""
    held_back: int = 0
    """Number of images that no step saw."""
    held_back_losses: list[float] = field(default_factory=list)
    """Mean loss on the held-back images at each check."""
    tf32: bool = False
    """Whether convolutions of the steps rounded their inputs to TF32."""

    def details(self) -> dict[str, Any]:
        """Return the history for the card. `loss_first` and `loss_last` are means over ten steps."""
        return {
            "steps": len(self.losses),
            "stopped": self.stopped,
            "loss_first": _mean(self.losses[:_MEAN_STEPS]),
            "loss_last": _mean(self.losses[-_MEAN_STEPS:]),
            "held_back": self.held_back,
            "held_back_losses": self.held_back_losses,
            **({"tf32": True} if self.tf32 else {}),
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
    """Minimise a loss, then recompute the statistics of trained batch norms.

    Training ends when the steps are done, the time budget is used or the loss on held-back images stops falling.

    Args:
        module: The network.
        optimiser: Holds the parameters to train.
        loss_of: Returns the loss, a scalar, of a batch (B, 3, H, W) float32 in [0, 1].
        images: OK images.
        chosen: Number of steps and batch size. The learning rate is the optimiser's.
        context: Seed, device and time budget.
    """

    def step(batch: Tensor) -> Tensor:
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    trained = train_loop_with(module, step, loss_of, images, chosen, context)
    recompute_statistics(module, loss_of, images, chosen.batch, context)
    return trained


@tf32_convolutions()
def train_loop_with(
    module: nn.Module, step: LossOf, loss_of: LossOf, images: TrainImages, chosen: Steps, context: FitContext
) -> Trained:
    """Train as `train_loop` does, but by `step`, which takes a batch, runs the optimiser and returns the loss."""
    device, order = torch.device(context.device), np.random.default_rng(context.seed).permutation(len(images)).tolist()
    held = Subset(images, order[: held_back_count(len(images), chosen.steps)])
    kept = Subset(images, sorted(order[len(held) :]))

    def loss() -> float:
        recompute_statistics(module, loss_of, kept, chosen.batch, context, max_images=_CHECK_IMAGES)
        with frozen_batch_norm(module):
            losses = [float(loss_of(batch)) * len(batch) for batch in in_batches(held, chosen.batch, device)]
        return sum(losses) / len(held)

    early_stopping = EarlyStopping(module, lambda: seeded(loss, context.seed, device))
    draws, clock, trained = Draws(len(kept), context.seed), Clock(context.budget_s), Trained(held_back=len(held))
    steps = clock.steps(chosen.steps)
    module.train()
    for _ in early_stopping.steps(steps, chosen.steps) if len(held) else steps:
        trained.losses.append(float(step(to_tensor(kept.batch(draws.take(chosen.batch)), device))))
    trained.held_back_losses = early_stopping.losses
    if clock.stopped_early:
        trained.stopped = "time budget spent"
    if early_stopping.reached:
        trained.stopped = "held-back loss no longer fell"
    trained.tf32 = has_tf32(context.device)
    return trained
