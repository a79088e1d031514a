"""STFPM (Wang et al. 2021, arXiv:2103.04257): a student learns the teacher's feature pyramid on OK images.

Loss and map are anomalib's. anomalib's model class always downloads the teacher.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from raybench.detectors import backbone
from raybench.detectors.anomalib_parts import InferenceBatch, STFPMAnomalyMap, STFPMLoss
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import StfpmSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop


class Stfpm(TorchDetector[StfpmSettings]):
    """STFPM."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        return backbone.Normalised(Pair(self.settings), self.settings.backbone)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        pair: Pair = module.model
        backbone.pretrain(pair.teacher, self.settings.backbone, context)
        loss_of = STFPMLoss()
        # As in anomalib, whose loss is a sum over the batch.
        optimiser = torch.optim.SGD(pair.student.parameters(), lr=self.settings.lr, momentum=0.9, weight_decay=0.001)

        def loss(batch: Tensor) -> Tensor:
            value: Tensor = loss_of(*pair.features(module.normalise(batch)))
            return value

        self.details = train_loop(module, optimiser, loss, images, self.settings, context).details()
        self.describe_weights(context)

    def card(self) -> Card:
        return self.backbone_card("stfpm")


class Pair(nn.Module):
    """A frozen teacher and a student of the same shape."""

    def __init__(self, chosen: StfpmSettings) -> None:
        super().__init__()
        self.teacher = backbone.extractor(chosen.backbone, *chosen.strides).requires_grad_(False)
        self.student = backbone.extractor(chosen.backbone, *chosen.strides, trainable=True)
        self.to_map = STFPMAnomalyMap()

    def features(self, images: Tensor) -> tuple[dict[Any, Tensor], dict[Any, Tensor]]:
        """Return the features of teacher and student by layer."""
        return self.teacher(images), self.student(images)

    def forward(self, images: Tensor) -> InferenceBatch:
        teacher, student = self.features(images)
        # anomalib multiplies the maps in a tensor of ones that it makes on the CPU.
        maps = [self.to_map.compute_layer_map(teacher[layer], student[layer], images.shape[-2:]) for layer in teacher]
        anomaly_map = functools.reduce(torch.mul, maps)
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)
