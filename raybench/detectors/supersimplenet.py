"""SuperSimpleNet (Rolih et al. 2024, arXiv:2408.03143), trained on OK images and synthetic anomalies of features.

Its parts are anomalib's. anomalib's model class always downloads the backbone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import (
    FeatureAdapter,
    InferenceBatch,
    SegmentationDetectionModule,
    SSNAnomalyMap,
)
from raybench.detectors.perlin import draw_noise, stretched
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import SupersimplenetSettings
from raybench.detectors.torch_detector import Draws, TorchDetector, to_tensor
from raybench.detectors.training import train_loop

_PERLIN_THRESHOLD = 0.2  # anomalib's
_ANOMALOUS = 0.5  # share of masks that are not empty
_TRUNCATION = 0.5  # logits beyond it, on the right side, cost nothing
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
        lr = self.settings.lr
        optimiser = torch.optim.AdamW(
            [
                {"params": heads.adaptor.parameters(), "lr": lr},
                {"params": heads.segdec.parameters(), "lr": 2 * lr, "weight_decay": 1e-5},
            ]
        )

        def loss(batch: Tensor) -> Tensor:
            return loss_of(*heads.with_anomalies(module.normalise(batch)))

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
        self.teacher = backbone.extractor(chosen.backbone, *chosen.strides).requires_grad_(False)
        channels = sum(backbone.layout(chosen.backbone).channels(*chosen.strides))
        self.pooler = nn.AvgPool2d(3, stride=1, padding=1)
        self.register_buffer("centre", torch.zeros(channels, 1, 1))
        self.register_buffer("spread", torch.ones(channels, 1, 1))
        self.adaptor = FeatureAdapter(channels)
        self.segdec = SegmentationDetectionModule(channels, stop_grad=True)
        self.noise = chosen.noise
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
        adapted = self.adaptor(features)
        masks = draw_masks(2 * len(images), features.shape[-2], features.shape[-1], features.device)
        noise = masks * self.noise * torch.randn((len(masks), *features.shape[1:]), device=features.device)
        maps, scores = self.segdec(
            seg_features=adapted.repeat(2, 1, 1, 1) + noise, cls_features=features.repeat(2, 1, 1, 1) + noise
        )
        return maps, scores, masks, masks.amax((1, 2, 3))

    def forward(self, images: Tensor) -> InferenceBatch:
        features = self.features(images)
        maps, scores = self.segdec(seg_features=self.adaptor(features), cls_features=features)
        anomaly_map = self.to_map(maps, final_size=images.shape[-2:]).sigmoid()
        # In float32 the sigmoid of all values above 17 is the same.
        return InferenceBatch(pred_score=scores.double().sigmoid(), anomaly_map=anomaly_map)


def draw_masks(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return masks (count, 1, height, width) float32 of 0 and 1 in the shapes of Perlin noise. About half are empty."""
    padded = [1 << (side - 1).bit_length() for side in (height, width)]
    maps = stretched(draw_noise(count, padded[0], padded[1], device), _PERLIN_THRESHOLD)
    resized = F.interpolate(maps[:, None], size=(height, width), mode="bilinear")
    filled = torch.rand(count, 1, 1, 1, device=device) <= _ANOMALOUS
    return (filled & (resized > _PERLIN_THRESHOLD)).float()


def loss_of(maps: Tensor, scores: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
    """Return anomalib's `SSNLoss`, a scalar, without waiting for the device to count anomalous pixels.

    Args:
        maps: (B, 1, H, W) logits.
        scores: (B,) logits.
        masks: (B, 1, H, W) float32: 1 where a pixel is anomalous.
        labels: (B,) float32: 1 where an image is anomalous.
    """
    value: Tensor = _focal(maps, masks) + _focal(scores, labels)
    for target, logits in ((1 - masks, maps), (masks, -maps)):
        value = value + (F.relu(logits + _TRUNCATION) * target).sum() / target.sum().clamp(min=1)
    return value


def _focal(logits: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=4.0, reduction="mean")
    return loss
