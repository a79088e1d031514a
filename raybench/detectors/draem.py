"""DRAEM (Zavrtanik et al. 2021, arXiv:2108.07610): one network repairs synthetic anomalies, another segments them.

Networks, loss and anomaly generator are anomalib's. The textures of the anomalies are Describable Textures if the
settings ask for them, else altered OK images of the line and Perlin noise.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from raybench.detectors.anomalib_parts import (
    DiscriminativeSubNetwork,
    DraemLoss,
    InferenceBatch,
    PerlinAnomalyGenerator,
    ReconstructiveSubNetwork,
)
from raybench.detectors.crops import Crops
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import DraemSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop
from raybench.detectors.weights.files import unpacked

_BLEND = (0.1, 1.0)  # anomalib's
_TEXTURES = 64


class Draem(TorchDetector[DraemSettings]):
    """DRAEM."""

    def build(self) -> nn.Module:
        repairer: nn.Module = Repairer(self.settings.width)
        return repairer.to(memory_format=torch.channels_last)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        loss_of = DraemLoss()
        optimiser = torch.optim.Adam(module.parameters(), lr=self.settings.lr)
        with tempfile.TemporaryDirectory() as folder:
            anomalies = PerlinAnomalyGenerator(self._textures(images, Path(folder), context), blend_factor=_BLEND)
            anomalies.anomaly_source_paths.sort()

            def loss(batch: Tensor) -> Tensor:
                with warnings.catch_warnings():  # anomalib uses a deprecated image reader of torchvision
                    warnings.simplefilter("ignore", DeprecationWarning)
                    broken, masks = anomalies(batch)
                repaired, logits = module.pair(broken)
                value: Tensor = loss_of(batch, repaired, masks, logits)
                return value

            self.details = train_loop(module, optimiser, loss, images, self.settings, context).details()
        self.details["textures"] = self.settings.textures

    def _textures(self, images: TrainImages, folder: Path, context: FitContext) -> Path:
        """Return a folder of textures; those of the line are written to `folder`."""
        if self.settings.textures == "dtd":
            return unpacked(context.weights["dtd"])
        crops = Crops(images, min(self.height, self.width), context.seed, torch.device("cpu"))
        for number in range(_TEXTURES):
            texture = (crops.altered(1) if number % 2 else crops.scrambled(1))[0]
            pixels = (texture * 255).byte().permute(1, 2, 0).numpy()
            cv2.imwrite(str(folder / f"{number:02}.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return folder

    def card(self) -> Card:
        names = {"dtd": "Describable Textures", "line": "the line's own OK images, altered, and Perlin noise"}
        textures = names[self.settings.textures]
        note = f"trained from scratch, width {self.settings.width}; anomalies made of {textures}"
        return Card("draem", "none", "none", note, self.parameters(), details=self.details)


class Repairer(nn.Module):
    """A network that repairs an image, and one that segments the repaired pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.repair = ReconstructiveSubNetwork(base_width=width)
        self.find = DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_width=width // 2)

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the repaired images (B, 3, H, W) and logits (B, 2, H, W) of "OK" and "anomalous"."""
        repaired = self.repair(images)
        return repaired, self.find(torch.cat([images, repaired], 1))

    def forward(self, images: Tensor) -> InferenceBatch:
        anomaly_map = self.pair(images)[1].softmax(1)[:, 1]
        return InferenceBatch(pred_score=anomaly_map.amax((-2, -1)), anomaly_map=anomaly_map)
