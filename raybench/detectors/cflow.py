"""CFLOW-AD (Gudovskiy et al. 2021, arXiv:2107.12571): a conditional flow gives the likelihood of features.

Encoder, decoders and likelihood are anomalib's. anomalib's heat map is relative to the highest likelihood of the batch,
so that a score depends on the other images of the batch. Here it is relative to the highest likelihood of the OK
training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import CflowModel, InferenceBatch, get_logp, positional_encoding_2d
from raybench.detectors.device import upload
from raybench.detectors.device_images import in_batches
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import CflowSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop_with

_CONDITION = 128  # numbers that encode a position
_BATCH = 8


class Cflow(TorchDetector[CflowSettings]):
    """CFLOW-AD."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        return backbone.Normalised(Likelihood(self.settings, self.height, self.width), self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        likelihood: Likelihood = module.model
        backbone.pretrain(likelihood.flow.encoder, self.settings.backbone, context)
        optimiser = torch.optim.Adam(likelihood.flow.decoders.parameters(), lr=self.settings.lr)

        def step(batch: Tensor) -> Tensor:
            losses = []
            for part in self._fibers(likelihood, module.normalise(batch)):
                optimiser.zero_grad()
                part.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(part.detach())
            return torch.stack(losses).mean()

        def loss(batch: Tensor) -> Tensor:
            return torch.stack(list(self._fibers(likelihood, module.normalise(batch)))).mean()

        self.details = train_loop_with(module, step, loss, images, self.settings, context).details()
        module.eval()
        with torch.no_grad():
            for batch in in_batches(images, _BATCH, self.device):
                likelihood.note_highest(module.normalise(batch))
        self.describe_weights(context)

    def _fibers(self, likelihood: Likelihood, images: Tensor) -> Iterator[Tensor]:
        """Yield the loss of each group of `fibers` random positions, level by level."""
        for level, (features, places) in enumerate(likelihood.levels(images)):
            order = upload(torch.randperm(len(features)), features.device)
            for group in order.split(self.settings.fibers):  # type: ignore[no-untyped-call]
                yield -F.logsigmoid(likelihood.of(level, features[group], places[group])).mean()

    def card(self) -> Card:
        return self.backbone_card("cflow")


class Likelihood(nn.Module):
    """A feature pyramid and a flow per level, which gives the likelihood of features given their positions."""

    highest: Tensor
    """(levels,) float32: highest log-likelihood per dimension of the OK images, for each level."""

    def __init__(self, chosen: CflowSettings, height: int, width: int) -> None:
        super().__init__()
        layout = backbone.layout(chosen.backbone)
        self.strides = chosen.strides
        self.flow = CflowModel(
            layout.timm_name,
            layout.names(*self.strides),
            pre_trained=False,
            coupling_blocks=chosen.coupling_blocks,
            condition_vector=_CONDITION,
        )
        backbone.trim(self.flow.encoder)
        self.register_buffer("highest", torch.full((len(self.strides),), -torch.inf))
        for stride in self.strides:
            places = positional_encoding_2d(_CONDITION, height // stride, width // stride).flatten(1).T
            self.register_buffer(f"places_{stride}", places, persistent=False)

    def levels(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each level features (B * h * w, C) and the encodings of their positions (B * h * w, 128)."""
        levels = []
        for stride, features in zip(self.strides, self.flow.encoder(images).values(), strict=True):
            places = self.get_buffer(f"places_{stride}").repeat(len(features), 1)
            levels.append((features.flatten(2).mT.flatten(0, 1), places))
        return levels

    def of(self, level: int, features: Tensor, places: Tensor) -> Tensor:
        """Return the log-likelihood per dimension, (N,), of features (N, C) at encoded positions (N, 128)."""
        latent, jacobian = self.flow.decoders[level](features, [places])
        logp: Tensor = get_logp(features.shape[1], latent, jacobian)
        return logp / features.shape[1]

    def note_highest(self, images: Tensor) -> None:
        """Update `highest` with normalised images."""
        for level, (features, places) in enumerate(self.levels(images)):
            self.highest[level] = torch.maximum(self.highest[level], self.of(level, features, places).max())

    def forward(self, images: Tensor) -> InferenceBatch:
        """Return maps: the number of levels minus the sum of their relative likelihoods. 0 is the most likely."""
        size = images.shape[-2:]
        likelihood = images.new_zeros(len(images), *size)
        for level, (features, places) in enumerate(self.levels(images)):
            shape = (len(images), 1, size[0] // self.strides[level], size[1] // self.strides[level])
            relative = (self.of(level, features, places) - self.highest[level]).clamp(max=0).exp().view(shape)
            likelihood += F.interpolate(relative, size=size, mode="bilinear", align_corners=True)[:, 0]
        anomaly_map = len(self.strides) - likelihood
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)
