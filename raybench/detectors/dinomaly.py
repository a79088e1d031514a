"""Dinomaly (Guo et al. 2025, arXiv:2405.14325): a plain decoder that cannot focus rebuilds DINOv2's features.

Model and loss are anomalib's, which always downloads the encoder.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from raybench.detectors.anomalib_parts import DINOMALY_TRAINING, DinomalyModel
from raybench.detectors.settings import DinomalySettings
from raybench.detectors.transformer_decoder import TransformerDecoder


class Dinomaly(TransformerDecoder[DinomalySettings]):
    """Dinomaly."""

    name = "dinomaly"
    parts = ("bottleneck", "decoder")
    recipe = DINOMALY_TRAINING

    def model(self, timm_name: str) -> nn.Module:
        return DinomalyModel(encoder_name=timm_name, bottleneck_dropout=self.settings.dropout)

    def loss(self, model: Any, images: Tensor, step: int) -> Tensor:
        value: Tensor = model(images, global_step=step)
        return value
