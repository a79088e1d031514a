"""The training loop: seeded batches of OK images until the steps are done, the time is up or the loss stops falling."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.detectors.device import has_tf32, tf32_convolutions
from raybench.detectors.device_images import DeviceImages, stream
from raybench.detectors.early_stopping import EarlyStopping, held_back_count, seeded
from raybench.detectors.protocol import FitContext, TrainImages, TrainSteps
from raybench.detectors.settings import Steps
from raybench.detectors.torch_detector import Clock, Draws, Subset

LossOf = Callable[[Tensor], Tensor]
_MEAN_STEPS = 10
_STATISTICS_IMAGES = 128  # the most images that give trained batch norms their statistics
_CHECK_IMAGES = 32  # the same for a check of the held-back loss


@dataclass
class Trained:
    """The history of a training."""

    planned: int
    """The most steps that were to be taken."""
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
    budget_s: float | None = None
    """The time budget, in seconds, if it ended training."""

    def details(self) -> dict[str, Any]:
        """Return the history for the card. `loss_first` and `loss_last` are means over ten steps."""
        return {
            "steps": len(self.losses),
            "train_steps": asdict(TrainSteps(len(self.losses), self.planned, self.budget_s)),
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
    drawn = _draws(len(images), chosen.batch, context.seed, _STATISTICS_IMAGES)
    recompute_statistics(module, loss_of, stream(images, drawn, torch.device(context.device)))
    return trained


@tf32_convolutions()
def train_loop_with(
    module: nn.Module, step: LossOf, loss_of: LossOf, images: TrainImages, chosen: Steps, context: FitContext
) -> Trained:
    """Train as `train_loop` does, but by `step`, which takes a batch, runs the optimiser and returns the loss."""
    device, order = torch.device(context.device), np.random.default_rng(context.seed).permutation(len(images)).tolist()
    held_indices = order[: held_back_count(len(images), chosen.steps)]
    kept_indices = sorted(order[len(held_indices) :])
    held, kept = (DeviceImages(Subset(images, indices), device) for indices in (held_indices, kept_indices))

    def loss() -> float:
        drawn = _draws(len(kept), chosen.batch, context.seed, _CHECK_IMAGES)
        recompute_statistics(module, loss_of, kept.batches(drawn))
        starts = range(0, len(held), chosen.batch)
        parts = [range(start, min(start + chosen.batch, len(held))) for start in starts]
        with frozen_batch_norm(module):
            losses: list[float] = torch.stack([loss_of(batch) for batch in held.batches(parts)]).tolist()
        return sum(value * len(part) for value, part in zip(losses, parts, strict=True)) / len(held)

    early_stopping = EarlyStopping(module, lambda: seeded(loss, context.seed, device))
    clock, trained = Clock(context.budget_s, context.device), Trained(chosen.steps, held_back=len(held))
    steps: Iterable[int] = clock.steps(chosen.steps)
    if len(held):
        steps = early_stopping.steps(steps, chosen.steps)
    batches = kept.batches(Draws(len(kept), context.seed).batches(chosen.batch))
    module.train()
    # Each loss stays a tensor until the end, because a float would wait for the device.
    losses = [step(batch) for _, batch in zip(steps, batches, strict=False)]
    trained.losses = torch.stack(losses).tolist() if losses else []
    trained.held_back_losses = early_stopping.losses
    if clock.stopped_early:
        trained.stopped, trained.budget_s = "time budget spent", context.budget_s
    if early_stopping.reached:
        trained.stopped = "held-back loss no longer fell"
    trained.tf32 = has_tf32(context.device)
    return trained


def recompute_statistics(module: nn.Module, loss_of: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> None:
    """Recompute the statistics of trained batch norms: precise batch norm (Wu and Johnson 2021, arXiv:2105.07576).

    Running averages lag behind weights that still change. After some hundred steps this can be most of a student's
    error.

    Args:
        module: The network.
        loss_of: Runs the network on a batch (B, 3, H, W) float32 in [0, 1]; the loss is not used.
        batches: OK images.
    """
    norms = _trained(module)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
    with torch.no_grad():
        for batch in batches:
            loss_of(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@contextlib.contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """Let trained batch norms use their running statistics without updating them while the block runs."""
    norms = [norm for norm in _trained(module) if norm.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _trained(module: nn.Module) -> list[_BatchNorm]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm) and part.weight.requires_grad]


def _draws(count: int, batch: int, seed: int, most: int) -> Iterator[list[int]]:
    """Return seeded draws of at most `most` of `count` images, rounded up to whole batches."""
    return itertools.islice(Draws(count, seed).batches(batch), math.ceil(min(most, count) / batch))
