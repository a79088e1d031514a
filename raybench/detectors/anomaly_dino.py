"""AnomalyDINO (Damm et al. 2025, arXiv:2405.14529): distance to a memory bank of patches of OK images.

Features, distances and map are anomalib's; its model class always downloads the network. The memory bank is filled as
PatchCore's: from a bounded pool, by the faster k-center greedy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import (
    AnomalyDINOModel,
    DynamicBufferMixin,
    InferenceBatch,
    PatchcoreMap,
)
from raybench.detectors.patchcore import draw_rows, k_center
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import AnomalyDinoSettings
from raybench.detectors.torch_detector import Draws, Subset, TorchDetector
from raybench.detectors.weights.catalog import PATCH

_LAST_BLOCK = 11


class AnomalyDino(TorchDetector[AnomalyDinoSettings]):
    """AnomalyDINO."""

    min_images = 1

    def build(self) -> nn.Module:
        return backbone.Normalised(Memory(self.settings), self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        memory: Memory = module.model
        backbone.pretrain(memory.encoder, self.settings.backbone, context)
        if 0 < self.settings.shots < len(images):
            images = Subset(images, sorted(Draws(len(images), context.seed).take(self.settings.shots)))
        draw = torch.Generator().manual_seed(context.seed)
        rows, most = self.settings.pool_rows, self.settings.bank_rows
        with torch.no_grad():
            pool = draw_rows(images, lambda batch: memory.embed(module.normalise(batch)), rows, draw, self.device)
            if len(pool) > most:
                pool = pool[k_center(pool, most, int(torch.randint(len(pool), (1,), generator=draw)))]
        memory.bank = pool
        self.details = {"images": len(images)}
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("anomaly_dino", bank=len(self.module.get_buffer("model.bank")))


class Memory(DynamicBufferMixin):
    """A frozen vision transformer and the memory bank of its normalised patch tokens."""

    bank: Tensor
    """(rows, C) float32, of length 1."""

    def __init__(self, chosen: AnomalyDinoSettings) -> None:
        super().__init__()
        self.encoder = backbone.transformer(chosen.backbone, _LAST_BLOCK, norm=True)
        self.register_buffer("bank", torch.empty(0))
        self.to_map = PatchcoreMap()

    def embed(self, images: Tensor) -> Tensor:
        """Return the patch tokens of normalised images, of length 1: (B, patches, C) float32."""
        (tokens,) = self.encoder(images).values()
        return F.normalize(tokens, dim=-1)

    def forward(self, images: Tensor) -> InferenceBatch:
        height, width = images.shape[-2:]
        distances = (1 - (self.embed(images) @ self.bank.T).amax(-1)).clamp(0, 2)
        grid = distances.reshape(-1, 1, height // PATCH, width // PATCH)
        return InferenceBatch(
            pred_score=AnomalyDINOModel.mean_top1p(distances), anomaly_map=self.to_map(grid, (height, width))
        )
