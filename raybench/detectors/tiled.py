"""A detector for large images: scored tile by tile, its heat maps put together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from raybench.detectors.protocol import Card, Detector, FitContext, Images, Scored, TrainImages

_OVERLAP = 8  # tiles overlap by at least an eighth of their side


class Tiled(Detector):
    """`inner`, a detector of `tile` x `tile` images, for images of `height` x `width` (both at least `tile`).

    An image's score is that of its most anomalous tile; where tiles overlap, the heat map is their mean.
    """

    def __init__(self, inner: Detector, height: int, width: int, tile: int) -> None:
        self.inner, self.tile = inner, tile
        self.places = [(top, left) for top in starts(height, tile) for left in starts(width, tile)]

    @property
    def gpu_memory_mb(self) -> float:
        return float(getattr(self.inner, "gpu_memory_mb", 0.0))

    def fit(self, images: TrainImages, context: FitContext) -> None:
        self.inner.fit(_Tiles(images, self.places, self.tile), context)

    def score(self, images: Images) -> Scored:
        found = [self._score(image) for image in images]
        maps = [one.heatmaps for one in found if one.heatmaps is not None]
        scores = np.array([one.scores.max() for one in found], np.float64)
        return Scored(scores, np.concatenate(maps) if len(maps) == len(images) and maps else None)

    def _score(self, image: Images) -> Scored:
        """image: (H, W, 3). Scores of its tiles, and its one heat map (1, H, W)."""
        found = self.inner.score(np.stack([cut(image, place, self.tile) for place in self.places]))
        if found.heatmaps is None:
            return found
        total, count = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], np.float32)
        for (top, left), heatmap in zip(self.places, found.heatmaps, strict=True):
            here = np.s_[top : top + self.tile, left : left + self.tile]
            total[here] += heatmap
            count[here] += 1
        return Scored(found.scores, (total / count)[np.newaxis])

    def save(self, folder: Path) -> None:
        self.inner.save(folder)

    def restore(self, folder: Path) -> None:
        self.inner.restore(folder)

    def card(self) -> Card:
        inner = self.inner.card()
        how = f"scored in {len(self.places)} tiles of {self.tile}x{self.tile} px"
        outside = "its tiles are cut and joined outside the network"
        return replace(inner, weights_note=f"{inner.weights_note}; {how}", not_exportable=outside)


class _Tiles:
    """All tiles of all training images, image by image."""

    def __init__(self, images: TrainImages, places: Sequence[tuple[int, int]], tile: int) -> None:
        self._images, self._places, self._tile = images, places, tile

    def __len__(self) -> int:
        return len(self._images) * len(self._places)

    def batch(self, indices: Sequence[int]) -> Images:
        """(B, tile, tile, 3) uint8; an image is read once for neighbouring tiles of it."""
        split = [divmod(index, len(self._places)) for index in indices]
        whole = {at: self._images.batch([at])[0] for at in dict.fromkeys(image for image, _ in split)}
        return np.stack([cut(whole[image], self._places[place], self._tile) for image, place in split])


def cut(image: Images, place: tuple[int, int], tile: int) -> Images:
    """The (tile, tile, 3) part of `image` at (top, left)."""
    return image[place[0] : place[0] + tile, place[1] : place[1] + tile]


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side: evenly, from edge to edge, no two apart."""
    overlap = tile // _OVERLAP
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [round(start) for start in np.linspace(0, length - tile, count)]
