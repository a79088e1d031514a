"""Batch norms that are trained: their statistics, and how to look at a network without touching them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raybench.detectors.protocol import FitContext, TrainImages
from raybench.detectors.torch_detector import Draws, to_tensor

SETTLING = 128  # images, at most


def recompute_statistics(
    module: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    images: TrainImages,
    batch: int,
    context: FitContext,
    most: int = SETTLING,
) -> None:
    """Precise batch norm (Wu and Johnson 2021, arXiv:2105.07576): running averages lag behind weights that still move,
    which after some hundred steps can be most of a student's error. most: images to take the statistics of."""
    norms = _trained(module)
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average in which all batches count the same
    draws = Draws(len(images), context.seed)
    with torch.no_grad():
        for _ in range(math.ceil(min(most, len(images)) / batch)):
            loss_of(to_tensor(images.batch(draws.take(batch)), torch.device(context.device)))
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum


@contextlib.contextmanager
def frozen_batch_norm(module: nn.Module) -> Iterator[None]:
    """While the block runs, trained batch norms use their statistics and leave them as they are."""
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
