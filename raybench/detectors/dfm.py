"""DFM (Ahuja et al. 2019, arXiv:1909.11786): the reconstruction error of features by principal components of OK ones.

The model is anomalib's. Its score is the sum of the error over the image. Its heat map has one value per cell of
`pooling` x `pooling` features of stride 16, so it is coarse: 4x4 cells at 256x256 pixels, enlarged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import DFMModel
from raybench.detectors.device_images import in_batches
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import DfmSettings
from raybench.detectors.torch_detector import TorchDetector

_BATCH = 16


class Dfm(TorchDetector[DfmSettings]):
    """DFM."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        chosen, [stride] = self.settings, self.settings.strides
        layout = backbone.layout(chosen.backbone)
        model = DFMModel(
            layout.timm_name,
            layout.names(stride)[0],
            pre_trained=False,
            pooling_kernel_size=min(chosen.pooling, self.height // stride, self.width // stride),
            n_comps=chosen.variance,
        )
        backbone.trim(model.feature_extractor)
        return backbone.Normalised(model, chosen.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        model: DFMModel = module.model
        backbone.pretrain(model.feature_extractor, self.settings.backbone, context)
        with torch.no_grad():
            for batch in in_batches(images, _BATCH, self.device):
                model.memory_bank.append(model.get_features(module.normalise(batch))[0])
            model.fit()
        self.details = {"components": int(model.pca_model.singular_vectors.shape[1])}
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("dfm", bank=self.details["components"])
