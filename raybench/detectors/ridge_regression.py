"""Ridge regression that solves the last convolution of a network in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Ridge:
    """Ridge regression from batches: only the Gram matrices are kept in memory."""

    def __init__(self) -> None:
        self.rows = 0
        """Rows added so far."""
        self._gram = torch.empty(0)
        self._cross = torch.empty(0)

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add rows: `inputs` (N, D) and `targets` (N, C), float32."""
        ones = inputs.new_ones(len(inputs), 1)
        inputs = torch.cat([inputs, ones], 1)
        if self.rows == 0:
            self._gram = inputs.new_zeros(inputs.shape[1], inputs.shape[1])
            self._cross = inputs.new_zeros(inputs.shape[1], targets.shape[1])
        self._gram.addmm_(inputs.T, inputs)
        self._cross.addmm_(inputs.T, targets)
        self.rows += len(inputs)

    def solve(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return weights (C, D) and bias (C,) float32 with the least penalised squared error.

        Args:
            strength: Penalty on the squared weights, relative to the mean square of an input. The bias has none.
        """
        gram = self._gram.double()
        penalty = strength * gram.diagonal()[:-1].mean()
        gram.diagonal()[:-1].add_(penalty)
        solution = torch.cholesky_solve(self._cross.double(), torch.linalg.cholesky(gram)).float()
        return solution[:-1].T.contiguous(), solution[-1]


def fit_last(layer: nn.Conv2d, ridge: Ridge, strength: float) -> None:
    """Set the parameters of `layer` to the solution for patches of its input."""
    weight, bias = ridge.solve(strength)
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias)  # type: ignore[union-attr]


def patches(inputs: Tensor, kernel: int) -> Tensor:
    """Return the inputs of an unpadded convolution at each position: (B, C, H, W) to (B * positions, C * kernel**2)."""
    return F.unfold(inputs, kernel).mT.flatten(0, 1)
