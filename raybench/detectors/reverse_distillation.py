"""Reverse distillation (Deng and Li 2022, arXiv:2201.10703) on any feature pyramid.

anomalib has decoders for resnets only. This decoder mirrors the channels of any teacher. Loss and map are anomalib's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import (
    GaussianBlur2d,
    InferenceBatch,
    ReverseDistillationLoss,
)
from raybench.detectors.inference import SeparableBlur
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import ReverseDistillationSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop

_BETAS = (0.5, 0.999)  # the paper's
_SIGMA = 4.0  # of the blur of the map, in pixels: anomalib's


class ReverseDistillation(TorchDetector[ReverseDistillationSettings]):
    """Reverse distillation."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        distiller = Distiller(self.settings, (self.height, self.width))
        return backbone.Normalised(distiller, self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        model: Distiller = module.model
        backbone.pretrain(model.teacher, self.settings.backbone, context)
        weights = [*model.bottleneck.parameters(), *model.decoder.parameters()]
        optimiser = torch.optim.Adam(weights, lr=self.settings.lr, betas=_BETAS)
        loss_of = ReverseDistillationLoss()

        def loss(batch: Tensor) -> Tensor:
            value: Tensor = loss_of(*model.features(module.normalise(batch)))
            return value

        self.details = train_loop(module, optimiser, loss, images, self.settings, context).details()
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("reverse_distillation", note="generic decoder over its pyramid")


class Distiller(nn.Module):
    """A frozen feature pyramid (the teacher), a one-class bottleneck and a decoder that rebuilds the pyramid."""

    def __init__(self, chosen: ReverseDistillationSettings, size: tuple[int, int]) -> None:
        super().__init__()
        self.teacher = backbone.extractor(chosen.backbone, *chosen.strides).requires_grad_(False)
        channels = backbone.layout(chosen.backbone).channels(*chosen.strides)
        self.bottleneck = Bottleneck(channels, chosen.width)
        self.decoder = MirrorDecoder(chosen.width, channels)
        self.size = size
        self.blur = SeparableBlur(GaussianBlur2d(_SIGMA))

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of teacher and decoder, fine to coarse, of normalised images."""
        features = list(self.teacher(images).values())
        return features, self.decoder(self.bottleneck(features))

    def to_map(self, features: Sequence[Tensor], rebuilt: Sequence[Tensor]) -> Tensor:
        """Return anomalib's map (B, 1, H, W)."""
        anomaly_map = features[0].new_zeros(len(features[0]), 1, *self.size)
        for one, other in zip(features, rebuilt, strict=True):
            distances = 1 - F.cosine_similarity(one, other)[:, None]
            anomaly_map += F.interpolate(distances, size=self.size, mode="bilinear", align_corners=True)
        return self.blur(anomaly_map)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> InferenceBatch:
        anomaly_map = self.to_map(*self.features(images))
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution, batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    """Downsamples all levels to the size of the coarsest one, concatenates them and halves the size once more."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(
                *(convolution(size if step == 0 else width, width, 2) for step in range(len(channels) - 1 - level))
            )
            for level, size in enumerate(channels)
        )
        joined = channels[-1] + width * (len(channels) - 1)
        self.join = nn.Sequential(nn.Conv2d(joined, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.halve = convolution(width, width, 2)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [down(part) for down, part in zip(self.down, features, strict=True)]
        return self.halve(self.join(torch.cat(levels, 1)))  # type: ignore[no-any-return]


class MirrorDecoder(nn.Module):
    """Doubles the size level by level, coarse to fine. Linear heads rebuild the teacher's features."""

    def __init__(self, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [width, *(max(32, min(width, size)) for size in reversed(channels))]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                convolution(outputs, outputs),
            )
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1) for inputs, outputs in zip(widths[1:], reversed(channels), strict=True)
        )

    def forward(self, code: Tensor) -> list[Tensor]:
        rebuilt = []
        for up, head in zip(self.up, self.heads, strict=True):
            code = up(code)
            rebuilt.append(head(code))
        return rebuilt[::-1]
