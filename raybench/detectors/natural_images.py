"""Images of a folder: textures for DRAEM, and natural images for EfficientAD's penalty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from raybench.detectors.device_images import DeviceImages
from raybench.detectors.protocol import Images
from raybench.detectors.torch_detector import Draws
from raybench.errors import WeightsCorrupt

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_GREY_PROBABILITY = 0.3


class FolderImages:
    """All images below a folder, sorted by path, at one size. Implements `protocol.TrainImages`.

    Args:
        folder: Searched recursively.
        height: Height of the returned images, in pixels.
        width: Width of the returned images, in pixels.
        zoom: Images are resized to this multiple of the size, then cropped to the centre.

    Raises:
        WeightsCorrupt: The folder has no images.
    """

    def __init__(self, folder: Path, height: int, width: int, zoom: int = 1) -> None:
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not self._paths:
            raise WeightsCorrupt(f"there is no picture below {folder}")
        self._height, self._width, self._zoom = height, width, zoom

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: Sequence[int]) -> Images:
        """Return the images at `indices`, (B, H, W, 3) uint8 RGB. Raises WeightsCorrupt if one cannot be read."""
        return np.stack([self._read(self._paths[index]) for index in indices])

    def _read(self, path: Path) -> Images:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise WeightsCorrupt(f"{path} cannot be read as a picture")
        size = (self._zoom * self._width, self._zoom * self._height)
        resized = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        top, left = (size[1] - self._height) // 2, (size[0] - self._width) // 2
        return resized[top : top + self._height, left : left + self._width]


class NaturalImages:
    """Seeded draws from all images below a folder: (N, 3, height, width) float32 in [0, 1].

    EfficientAD's student must not imitate the teacher on them. As by its authors, images are resized to twice the size,
    cropped to the centre and made grey with probability 0.3.

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
        images = FolderImages(folder, height, width, zoom=2)
        self._images = DeviceImages(images, device)
        self._draws = Draws(len(images), seed)
        self._random = torch.Generator().manual_seed(seed)

    def take(self, count: int) -> Tensor:
        """Return the next `count` images. Raises WeightsCorrupt if one cannot be read."""
        images = self._images.batch(self._draws.take(count))
        for number in range(count):
            if float(torch.rand((), generator=self._random)) < _GREY_PROBABILITY:
                images[number] = rgb_to_grayscale(images[number], num_output_channels=3)
        return images
