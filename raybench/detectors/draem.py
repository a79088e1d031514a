"""DRAEM (Zavrtanik et al. 2021, arXiv:2108.07610): one network repairs synthetic anomalies, another segments them.

Networks, loss and the alterations of textures are anomalib's. The textures of the anomalies are Describable Textures if
the settings ask for them, else altered OK images of the line and Perlin noise.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from raybench.detectors.anomalib_parts import (
    DiscriminativeSubNetwork,
    DraemLoss,
    InferenceBatch,
    PerlinAnomalyGenerator,
    ReconstructiveSubNetwork,
)
from raybench.detectors.crops import Crops
from raybench.detectors.device import upload
from raybench.detectors.device_images import DeviceImages
from raybench.detectors.natural_images import FolderImages
from raybench.detectors.perlin import draw_noise, stretched
from raybench.detectors.protocol import Card, FitContext, TrainImages
from raybench.detectors.settings import DraemSettings
from raybench.detectors.torch_detector import TorchDetector
from raybench.detectors.training import train_loop
from raybench.detectors.weights.files import unpacked

ANOMALOUS = 0.5
"""Share of images that get an anomaly, as in anomalib."""
_PERLIN_THRESHOLD = 0.5  # anomalib's
_MAX_ROTATION = math.pi / 2  # anomalib's
_OPACITY = (0.1, 1.0)  # anomalib's
_TEXTURES = 64


class Draem(TorchDetector[DraemSettings]):
    """DRAEM."""

    scores_by_peak = True

    def build(self) -> nn.Module:
        repairer: nn.Module = Repairer(self.settings.width)
        return repairer.to(memory_format=torch.channels_last)

    def train(self, module: Any, images: TrainImages, context: FitContext) -> None:
        loss_of = DraemLoss()
        optimiser = torch.optim.Adam(module.parameters(), lr=self.settings.lr)
        with tempfile.TemporaryDirectory() as folder:
            textures = FolderImages(self._textures(images, Path(folder), context), self.height, self.width)
            anomalies = Anomalies(DeviceImages(textures, self.device))

            def loss(batch: Tensor) -> Tensor:
                broken, masks = anomalies.add_to(batch)
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
        return Card("draem", "none", "none", note, self.parameters(), details=self.details, steps=self.train_steps())


class Anomalies:
    """Synthetic anomalies: altered textures in the shapes of Perlin noise.

    Their distribution is that of anomalib's PerlinAnomalyGenerator, which reads a file and waits for the device several
    times for each image.

    Args:
        textures: Textures at the size of the images.
    """

    def __init__(self, textures: DeviceImages) -> None:
        self._textures = textures
        self._alter = PerlinAnomalyGenerator().augmenters

    def add_to(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W), about half of them with an anomaly, and the masks (B, 1, H, W) of 0 and 1."""
        masks = images.new_zeros(len(images), 1, *images.shape[-2:])
        chosen = torch.nonzero(torch.rand(len(images)) <= ANOMALOUS).flatten()  # on the CPU: its number is needed
        if not len(chosen):
            return images, masks
        textures = self._textures.batch(torch.randint(len(self._textures), (len(chosen),)).tolist())
        altered = torch.stack([self._alter(texture) for texture in textures])
        places = upload(chosen, images.device)
        masks.index_copy_(0, places, draw_masks(len(chosen), masks.shape[2], masks.shape[3], images.device))
        low, high = _OPACITY
        opacity = masks * (low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device))
        return torch.lerp(images, images.index_copy(0, places, altered), opacity), masks


def draw_masks(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return masks (count, 1, height, width) float32 of 0 and 1 in the shapes of rotated Perlin noise.

    4 of 1000 shapes are empty, because rotation moves them out of the image. anomalib draws such a mask again, and for
    that looks at it. Here two are drawn, and the second replaces an empty first.
    """
    maps = stretched(draw_noise(2 * count, height, width, device), _PERLIN_THRESHOLD)
    angles = _MAX_ROTATION * (2 * torch.rand(2 * count, device=device) - 1)
    first, second = (rotated(maps[:, None], angles) > _PERLIN_THRESHOLD).float().chunk(2)
    return torch.where(first.amax((1, 2, 3), keepdim=True) > 0, first, second)


def rotated(maps: Tensor, angles: Tensor) -> Tensor:
    """Rotate maps (B, 1, H, W) by angles (B,) in radians, as torchvision's `affine` does with a fill of 0."""
    height, width = maps.shape[-2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rows = [cos, sin * (height / width), zero, -sin * (width / height), cos, zero]
    inside = torch.cat([maps, torch.ones_like(maps)], 1)
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(inside.shape), align_corners=False)
    values, share = F.grid_sample(inside, grid, align_corners=False).chunk(2, 1)
    return values * share


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
