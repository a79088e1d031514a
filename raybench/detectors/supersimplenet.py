"""SuperSimpleNet (Rolih et al. 2024, arXiv:2408.03143), trained on OK images and synthetic anomalies of features.

Its parts are anomalib's. anomalib's model class always downloads the backbone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import (
    FeatureAdapter,
    InferenceBatch,
    SegmentationDetectionModule,
    SSNAnomalyGenerator,
    SSNAnomalyMap,
    SSNLoss,
)
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import SupersimplenetSettings
from raybench.detectors.torch_detector import Draws, TorchDetector, to_tensor
from raybench.detectors.training import train_loop
from raybench.detectors.weights.catalog import BACKBONES

STRIDES = (8, 16)
_PERLIN_THRESHOLD = 0.2  # anomalib's
_STATISTICS_IMAGES = 16  # OK images whose features give centre and spread
_MIN_SPREAD = 1e-6


class Supersimplenet(TorchDetector[SupersimplenetSettings]):
    """SuperSimpleNet."""

    def build(self) -> nn.Module:
        return backbone.Normalised(Heads(self.settings), self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        heads: Heads = module.model
        backbone.pretrain(heads.teacher, self.settings.backbone, context)
        drawn = Draws(len(images), context.seed).take(min(len(images), _STATISTICS_IMAGES))
        with torch.no_grad():
            heads.standardise(module.normalise(to_tensor(images.batch(drawn), self.device)))
        loss_of, lr = SSNLoss(), self.settings.lr
        optimiser = torch.optim.AdamW(
            [
                {"params": heads.adaptor.parameters(), "lr": lr},
                {"params": heads.segdec.parameters(), "lr": 2 * lr, "weight_decay": 1e-5},
            ]
        )

        def loss(batch: Tensor) -> Tensor:
            maps, scores, masks, labels = heads.with_anomalies(module.normalise(batch))
            value: Tensor = loss_of(pred_map=maps, pred_score=scores, target_mask=masks, target_label=labels)
            return value

        self.details = train_loop(module, optimiser, loss, images, self.settings, context).details()
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("supersimplenet")


class Heads(nn.Module):
    """A frozen feature pyramid, an adaptor, and heads for map and score.

    Features are standardised: the noise of synthetic anomalies has one scale, and the features of backbones differ by a
    factor of twenty.
    """

    centre: Tensor
    """(C, 1, 1) float32: mean of each channel on OK images."""
    spread: Tensor
    """(C, 1, 1) float32: standard deviation of each channel on OK images."""

    def __init__(self, chosen: SupersimplenetSettings) -> None:
        super().__init__()
        self.teacher = backbone.extractor(chosen.backbone, *STRIDES).requires_grad_(False)
        channels = sum(BACKBONES[chosen.backbone].channels(*STRIDES))
        self.pooler = nn.AvgPool2d(3, stride=1, padding=1)
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.adaptor = FeatureAdapter(channels)
        self.segdec = SegmentationDetectionModule(channels, stop_grad=True)
        self.generator = SSNAnomalyGenerator(noise_mean=0, noise_std=chosen.noise, threshold=_PERLIN_THRESHOLD)
        self.to_map = SSNAnomalyMap(sigma=4)

    def features(self, images: Tensor) -> Tensor:
        """Return features (B, C, H/4, W/4): both levels at twice the size of the finer one, averaged over 3x3."""
        levels = list(self.teacher(images).values())
        size = [2 * side for side in levels[0].shape[-2:]]
        resized = [F.interpolate(level, size=size, mode="bilinear") for level in levels]
        pooled: Tensor = self.pooler(torch.cat(resized, 1))
        return (pooled - self.centre) / self.spread

    def standardise(self, images: Tensor) -> None:
        """Set centre and spread to those of OK images."""
        features = self.features(images)
        self.spread.copy_(features.std((0, 2, 3)).view_as(self.spread).clamp(min=_MIN_SPREAD))
        self.centre.copy_(features.mean((0, 2, 3)).view_as(self.centre))

    def with_anomalies(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Duplicate OK features, add noise, and return maps, scores, and the expected masks and labels."""
        features = self.features(images)
        masks = features.new_zeros(len(images), 1, *features.shape[-2:])
        noised, noised_adapted, masks, labels = self.generator(
            input_features=features, adapted_features=self.adaptor(features), masks=masks,
            labels=features.new_zeros(len(images)),
        )  # fmt: skip
        maps, scores = self.segdec(seg_features=noised_adapted, cls_features=noised)
        return maps, scores, masks, labels

    def forward(self, images: Tensor) -> InferenceBatch:
        features = self.features(images)
        maps, scores = self.segdec(seg_features=self.adaptor(features), cls_features=features)
        anomaly_map = self.to_map(maps, final_size=images.shape[-2:]).sigmoid()
        # In float32 the sigmoid of all values above 17 is the same.
        return InferenceBatch(pred_score=scores.double().sigmoid(), anomaly_map=anomaly_map)
