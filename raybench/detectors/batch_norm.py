"""Statistics of trained batch norms: recompute them, or keep them while a loss is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
