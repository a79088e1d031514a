"""PaDiM (Defard et al. 2020, arXiv:2011.08785): one Gaussian per patch position, fitted batch by batch.

anomalib keeps every embedding in memory. Here each batch updates mean and scatter (Chan, Golub and LeVeque 1979), so
memory depends only on the size of the images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import PadimAnomalyMap, PadimModel
from raybench.detectors.device_images import in_batches
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import PadimSettings
from raybench.detectors.torch_detector import TorchDetector

_BATCH = 16
_POSITIONS_PER_INVERSION = 256
_RIDGE = 0.01 + 1e-5  # anomalib's regularisation of the covariance: 0.01 (the paper's), then 1e-5 before inversion


class Padim(TorchDetector[PadimSettings]):
    """PaDiM."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        chosen = self.settings
        layout = backbone.layout(chosen.backbone)
        kept = min(chosen.n_features, sum(layout.channels(*chosen.strides)))
        model = PadimModel(layout.timm_name, layout.names(*chosen.strides), pre_trained=False, n_features=kept)
        backbone.trim(model.feature_extractor)
        model.anomaly_map_generator = HeatMap()
        return backbone.Normalised(model, chosen.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        model: PadimModel = module.model.eval()
        backbone.pretrain(model.feature_extractor, self.settings.backbone, context)
        stream = GaussianStream()
        with torch.no_grad():
            for batch in in_batches(images, _BATCH, self.device):
                features = model.feature_extractor(module.normalise(batch))
                stream.add(model.generate_embedding(features))
        model.gaussian.mean, model.gaussian.inv_covariance = stream.finish(_RIDGE)
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("padim")


class HeatMap(PadimAnomalyMap):
    """anomalib's heat map, its distances in half the time for one image."""

    @staticmethod
    def compute_distance(embedding: Tensor, stats: list[Tensor]) -> Tensor:
        """Return the Mahalanobis distance (B, 1, H, W) of every patch.

        Args:
            embedding: (B, C, H, W).
            stats: Mean (C, H*W) and inverse of the covariance (H*W, C, C).
        """
        batch, _, height, width = embedding.shape
        mean, inverse = stats
        # The product would copy rows that are not contiguous one by one.
        delta = (embedding.flatten(2) - mean).permute(2, 0, 1).contiguous()
        squares = (torch.matmul(delta, inverse) * delta).sum(2).T
        return squares.reshape(batch, 1, height, width).clamp(0).sqrt()


class GaussianStream:
    """Mean and inverse covariance of every patch position, updated by batches of embeddings."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.empty(0)
        self._scatter = torch.empty(0)

    def add(self, embedding: Tensor) -> None:
        """Update mean and scatter by an embedding (B, C, H, W) float."""
        rows = embedding.flatten(2).permute(2, 0, 1)
        added, mean = rows.shape[1], rows.mean(1, keepdim=True)
        if self.count == 0:
            self._mean = torch.zeros_like(mean)
            self._scatter = rows.new_zeros(rows.shape[0], rows.shape[2], rows.shape[2])
        shift, total = mean - self._mean, self.count + added
        # The difference between the batch's mean and the previous mean enters the scatter as one more row.
        centred = torch.cat([rows - mean, shift * (self.count * added / total) ** 0.5], 1)
        self._scatter.baddbmm_(centred.mT, centred)
        self._mean += shift * (added / total)
        self.count = total

    def finish(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return mean (C, H*W) and inverse of the unbiased covariance (H*W, C, C), `ridge` added to its diagonal."""
        covariance = self._scatter.div_(self.count - 1)
        covariance.diagonal(dim1=1, dim2=2).add_(ridge)
        for part in torch.split(covariance, _POSITIONS_PER_INVERSION):
            part.copy_(torch.linalg.inv(part))
        return self._mean[:, 0].T.contiguous(), covariance
