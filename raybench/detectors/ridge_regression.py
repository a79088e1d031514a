"""The last convolution of a network in closed form: ridge regression on what it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Ridge:
    """Weights and bias that map inputs to targets with the least squared error, summed up batch by batch."""

    def __init__(self) -> None:
        self.rows = 0
        self._gram = torch.empty(0)
        self._cross = torch.empty(0)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """inputs: (N, D), targets: (N, C), float32."""
        ones = inputs.new_ones(len(inputs), 1)
        inputs = torch.cat([inputs, ones], 1)
        if self.rows == 0:
            self._gram = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
            self._cross = inputs.new_zeros(inputs.shape[1], targets.shape[1])
        self._gram.addmm_(inputs.T, inputs)
        self._cross.addmm_(inputs.T, targets)
        self.rows += len(inputs)

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weights (C, D) and bias (C,) float32; `strength` is relative to the mean square of an input."""
        gram = self._gram.double()
        penalty = strength * gram.diagonal()[:-1].mean()
        gram.diagonal()[:-1].add_(penalty)
        solution = torch.cholesky_solve(self._cross.double(), torch.linalg.cholesky(gram)).float()
        return solution[:-1].T.contiguous(), solution[-1]


def fit_last(layer: nn.Conv2d, ridge: Ridge, strength: float) -> None:
    """Put the solution for patches of `layer`'s input into `layer`."""
    weight, bias = ridge.solve(strength)
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias)  # type: ignore[union-attr]


def patches(inputs: Tensor, kernel: int) -> Tensor:
    """What an unpadded convolution reads at each of its places: (B, C, H, W) to (B * places, C * kernel**2)."""
    return F.unfold(inputs, kernel).mT.flatten(0, 1)
