"""FastFlow (Yu et al. 2021, arXiv:2111.07677): a 2D normalizing flow on each level of a feature pyramid.

Flow blocks, loss and map are anomalib's. anomalib's model class supports only four backbones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import FastflowAnomalyMap, FastflowLoss, InferenceBatch, create_fast_flow_block
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import FastflowSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop


class Fastflow(TorchDetector[FastflowSettings]):
    """FastFlow."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        flow = Flow(self.settings, (self.height, self.width))
        return backbone.Normalised(flow, self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        flow: Flow = module.model
        backbone.pretrain(flow.teacher, self.settings.backbone, context)
        loss_of = FastflowLoss()
        trained = [*flow.norms.parameters(), *flow.blocks.parameters()]
        optimiser = torch.optim.Adam(trained, lr=self.settings.lr, weight_decay=1e-5)  # anomalib's

        def loss(batch: Tensor) -> Tensor:
            value: Tensor = loss_of(*flow.hidden(module.normalise(batch)))
            return value

        self.details = train_loop(module, optimiser, loss, images, self.settings, context).details()
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("fastflow")


class Flow(nn.Module):
    """A frozen feature pyramid and a normalizing flow per level."""

    def __init__(self, chosen: FastflowSettings, size: tuple[int, int]) -> None:
        super().__init__()
        self.teacher = backbone.extractor(chosen.backbone, *chosen.strides).requires_grad_(False)
        channels_of = backbone.layout(chosen.backbone).channels(*chosen.strides)
        shapes = [
            [channels, size[0] // stride, size[1] // stride]
            for channels, stride in zip(channels_of, chosen.strides, strict=True)
        ]
        self.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        self.blocks = nn.ModuleList(
            create_fast_flow_block(shape, conv3x3_only=False, hidden_ratio=1.0, flow_steps=chosen.flow_steps)
            for shape in shapes
        )
        self.to_map = FastflowAnomalyMap(size)

    def hidden(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the latent variables and the log-determinants of each level."""
        levels = self.teacher(images).values()
        pairs = [block(norm(level)) for block, norm, level in zip(self.blocks, self.norms, levels, strict=True)]
        return [latent for latent, _ in pairs], [jacobian for _, jacobian in pairs]

    def forward(self, images: Tensor) -> InferenceBatch:
        anomaly_map = self.to_map(self.hidden(images)[0])
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)
