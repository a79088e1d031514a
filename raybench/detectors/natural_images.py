"""Natural images from a folder for EfficientAD's penalty: the student must not imitate the teacher on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, rgb_to_grayscale

from raybench.detectors.torch_detector import Draws, to_tensor
from raybench.errors import WeightsCorrupt

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_GREY_PROBABILITY = 0.3


class NaturalImages:
    """Seeded draws from all images below a folder: (N, 3, height, width) float32 in [0, 1].

    As by EfficientAD's authors, images are resized to twice the size, made grey with probability 0.3 and cropped to the
    centre.

    Args:
        folder: Searched recursively.
        height: Height of the returned images, in pixels.
        width: Width of the returned images, in pixels.
        seed: Seed of all draws.
        device: Device of the returned tensors.

    Raises:
        WeightsCorrupt: The folder has no images.
    """

    def __init__(self, folder: Path, height: int, width: int, seed: int, device: torch.device) -> None:
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not self._paths:
            raise WeightsCorrupt(f"there is no picture below {folder}")
        self._height, self._width, self._device = height, width, device
        self._draws = Draws(len(self._paths), seed)
        self._random = torch.Generator().manual_seed(seed)

    def take(self, count: int) -> Tensor:
        """Return the next `count` images. Raises WeightsCorrupt if one cannot be read."""
        return torch.cat([self._read(self._paths[index]) for index in self._draws.take(count)])

    def _read(self, path: Path) -> Tensor:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise WeightsCorrupt(f"{path} cannot be read as a picture")
        resized = cv2.resize(pixels, (2 * self._width, 2 * self._height), interpolation=cv2.INTER_AREA)
        picture = to_tensor(np.asarray(resized, np.uint8)[None], self._device)  # (1, 3, 2 height, 2 width)
        if float(torch.rand((), generator=self._random)) < _GREY_PROBABILITY:
            picture = rgb_to_grayscale(picture, num_output_channels=3)
        cropped: Tensor = center_crop(picture, [self._height, self._width])
        return cropped
