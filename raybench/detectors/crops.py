"""Seeded random crops of OK images, plain and altered, to train on patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from raybench.detectors.device import upload
from raybench.detectors.device_images import DeviceImages
from raybench.detectors.protocol import TrainImages
from raybench.detectors.torch_detector import Draws

_IMAGES_PER_DRAW = 2
_TILES = 4  # tiles per side of a scrambled crop


class Crops:
    """Random square crops of the training images: (N, 3, side, side) float32 in [0, 1].

    Args:
        images: OK images.
        side: Side of the crops, in pixels.
        seed: Seed of all draws.
        device: Device of the returned tensors.
    """

    def __init__(self, images: TrainImages, side: int, seed: int, device: torch.device) -> None:
        self._images, self._side, self._device = DeviceImages(images, device), side, device
        self._draws = Draws(len(images), seed)
        self._random = torch.Generator().manual_seed(seed)

    def plain(self, count: int) -> Tensor:
        """Return `count` unchanged crops."""
        whole = self._images.batch(self._draws.take(_IMAGES_PER_DRAW))
        side, (height, width) = self._side, whole.shape[2:]
        parts = []
        for number in range(count):
            y, x = self._below(height - side + 1), self._below(width - side + 1)
            parts.append(whole[number % len(whole), :, y : y + side, x : x + side])
        return torch.stack(parts)

    def altered(self, count: int) -> Tensor:
        """Return crops that are flipped, recoloured and partly covered by texture.

        They show a model features that OK images do not have.
        """
        crops = self.plain(count)
        if self._below(2):
            crops = crops.flip(3)
        if self._below(2):
            crops = crops.transpose(2, 3)
        crops = crops * self._uniform(0.6, 1.4, count, 3, 1, 1) + self._uniform(-0.2, 0.2, count, 3, 1, 1)
        covered = self._smooth(count, 1, 6).gt(0.6).float()
        texture = 0.5 * self._smooth(count, 3, 5) + 0.5 * crops.flip(0)
        return (crops * (1 - covered) + covered * texture).clamp(0, 1)

    def scrambled(self, count: int) -> Tensor:
        """Return crops whose tiles are shuffled and recoloured, as images that are not OK."""
        crops = self.plain(count * 2)[:count] * self._uniform(0.2, 1.8, count, 3, 1, 1)
        tile = self._side // _TILES
        rows = F.unfold(crops, tile, stride=tile)
        order = upload(torch.randperm(rows.shape[2], generator=self._random), self._device)
        shuffled = F.fold(rows[..., order], (_TILES * tile, _TILES * tile), tile, stride=tile)
        texture = F.interpolate(self._smooth(count, 3, 8), size=shuffled.shape[-2:])
        return (0.6 * shuffled + 0.4 * texture).clamp(0, 1)

    def _smooth(self, count: int, channels: int, cells: int) -> Tensor:
        """Return smooth noise in [0, 1] up to overshoot: a random grid of cells, enlarged."""
        coarse = upload(torch.rand((count, channels, cells, cells), generator=self._random), self._device)
        return F.interpolate(coarse, size=(self._side, self._side), mode="bicubic", align_corners=False)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return upload(low + (high - low) * torch.rand(shape, generator=self._random), self._device)

    def _below(self, end: int) -> int:
        return int(torch.randint(end, (1,), generator=self._random))
