"""Pictures of anything but the product, from a folder: what a student must not learn to imitate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, rgb_to_grayscale

from raybench.detectors.torch_detector import Draws, to_tensor
from raybench.errors import WeightsCorrupt

_ENDINGS = {".jpg", ".jpeg", ".png"}
_GREY_SHARE = 0.3


class NaturalImages:
    """Seeded draws from all pictures below `folder`: (N, 3, height, width) float32 in [0, 1].

    As EfficientAD's authors alter ImageNet's: resized to twice the size, grey in three of ten cases, cut to the middle.
    """

    def __init__(self, folder: Path, height: int, width: int, seed: int, device: torch.device) -> None:
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
        if not self._paths:
            raise WeightsCorrupt(f"there is no picture below {folder}")
        self._height, self._width, self._device = height, width, device
        self._draws = Draws(len(self._paths), seed)
        self._random = torch.Generator().manual_seed(seed)

    def take(self, count: int) -> Tensor:
        """Raises WeightsCorrupt when a picture cannot be read."""
        return torch.cat([self._altered(self._paths[at]) for at in self._draws.take(count)])

    def _altered(self, path: Path) -> Tensor:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise WeightsCorrupt(f"{path} cannot be read as a picture")
        resized = cv2.resize(pixels, (2 * self._width, 2 * self._height), interpolation=cv2.INTER_AREA)
        picture = to_tensor(np.asarray(resized, np.uint8)[None], self._device)  # (1, 3, 2 height, 2 width)
        if float(torch.rand((), generator=self._random)) < _GREY_SHARE:
            picture = rgb_to_grayscale(picture, num_output_channels=3)
        cut: Tensor = center_crop(picture, [self._height, self._width])
        return cut
