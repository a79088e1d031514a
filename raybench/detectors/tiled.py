"""A detector for large images: it scores tiles and merges their heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raybench.detectors.protocol import Card, Detector, DeviceScored, FitContext, Images, Scored, TrainImages

_OVERLAP = 8  # tiles overlap by at least an eighth of their side


class Tiled(Detector):
    """A detector of tiles, applied to larger images.

    An image's score is that of its most anomalous tile. Where tiles overlap, the heat map is their mean.

    Args:
        inner: A detector of images of `tile` x `tile` pixels.
        height: Height of the images, at least `tile` pixels.
        width: Width of the images, at least `tile` pixels.
        tile: Side of the tiles, in pixels.
    """

    def __init__(self, inner: Detector, height: int, width: int, tile: int) -> None:
        self.inner, self.height, self.width, self.tile = inner, height, width, tile
        self.places = [(top, left) for top in starts(height, tile) for left in starts(width, tile)]

    @property
    def gpu_memory_mb(self) -> float:
        """GPU memory that the inner detector takes outside torch, in 10^6 bytes."""
        return float(getattr(self.inner, "gpu_memory_mb", 0.0))

    @property
    def scores_by_peak(self) -> bool:  # type: ignore[override]
        """Whether a tile's score is the highest value of its heat map."""
        return bool(getattr(self.inner, "scores_by_peak", False))

    def fit(self, images: TrainImages, context: FitContext) -> None:
        self.inner.fit(_Tiles(images, self.places, self.tile), context)

    def score(self, images: Images) -> Scored:
        results = [self._score(image) for image in images]
        maps = [scored.heatmaps for scored in results if scored.heatmaps is not None]
        scores = np.array([scored.scores.max() for scored in results], np.float64)
        return Scored(scores, np.concatenate(maps) if len(maps) == len(images) and maps else None)

    def _score(self, image: Images) -> Scored:
        """Return the scores of all tiles of an image (H, W, 3), and the merged heat map (1, H, W)."""
        scored = self.inner.score(np.stack([cut(image, place, self.tile) for place in self.places]))
        if scored.heatmaps is None:
            return scored
        total, count = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], np.float32)
        for (top, left), heatmap in zip(self.places, scored.heatmaps, strict=True):
            area = np.s_[top : top + self.tile, left : left + self.tile]
            total[area] += heatmap
            count[area] += 1
        return Scored(scored.scores, (total / count)[np.newaxis])

    def save(self, folder: Path) -> None:
        self.inner.save(folder)

    def restore(self, folder: Path) -> None:
        self.inner.restore(folder)

    def card(self) -> Card:
        inner = self.inner.card()
        method = f"scored in {len(self.places)} tiles of {self.tile}x{self.tile} px"
        return replace(inner, weights_note=f"{inner.weights_note}; {method}")


class DeviceTiled(Tiled):
    """The same for a detector whose results can stay on the device. Implements `protocol.OnDevice`."""

    def upload(self, images: Images) -> Any:
        """Return tiles (B, T, tile, tile, 3) as a uint8 tensor on the device."""
        tiles = np.stack([cut(image, place, self.tile) for image in images for place in self.places])
        return self.inner.upload(tiles).unflatten(0, (len(images), len(self.places)))  # type: ignore[attr-defined]

    def score_on_device(self, images: Any) -> DeviceScored:
        """Score what `upload` returned, without waiting for the device."""
        scored = self.inner.score_on_device(images.flatten(0, 1))  # type: ignore[attr-defined]
        scores = scored.scores.reshape(images.shape[:2]).amax(1)
        if scored.heatmaps is None:
            return DeviceScored(scores, None)
        total, count = scored.heatmaps.new_zeros((2, len(images), self.height, self.width))
        for index, (top, left) in enumerate(self.places):
            area = np.s_[:, top : top + self.tile, left : left + self.tile]
            total[area] += scored.heatmaps.unflatten(0, images.shape[:2])[:, index]
            count[area] += 1
        return DeviceScored(scores, total / count)


class _Tiles:
    """All tiles of all training images, in the order of the images."""

    def __init__(self, images: TrainImages, places: Sequence[tuple[int, int]], tile: int) -> None:
        self._images, self._places, self._tile = images, places, tile

    def __len__(self) -> int:
        return len(self._images) * len(self._places)

    def batch(self, indices: Sequence[int]) -> Images:
        """Return tiles (B, tile, tile, 3) uint8. An image is read once, even if several of its tiles are asked for."""
        split = [divmod(index, len(self._places)) for index in indices]
        whole = {index: self._images.batch([index])[0] for index in dict.fromkeys(image for image, _ in split)}
        return np.stack([cut(whole[image], self._places[place], self._tile) for image, place in split])


def cut(image: Images, place: tuple[int, int], tile: int) -> Images:
    """Return the part (tile, tile, 3) of `image` at `place`, its (top, left)."""
    return image[place[0] : place[0] + tile, place[1] : place[1] + tile]


def starts(length: int, tile: int) -> list[int]:
    """Return the offsets of tiles along a side: evenly spaced from edge to edge, overlapping by an eighth or more."""
    overlap = tile // _OVERLAP
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [round(start) for start in np.linspace(0, length - tile, count)]
