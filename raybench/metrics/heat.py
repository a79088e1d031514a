"""Heat maps in numbers: what the metrics keep of each, and the counts of all pixels.

`HostCounts` computes with NumPy; `on_device.DeviceCounts` does the same where the maps lie on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raybench.metrics.masks import Mask
from raybench.metrics.pixel import PixelMap, PixelSketch


@dataclass(frozen=True, eq=False)
class Heat:
    """One heat map in numbers. *Excess* is heat above that of a typical OK image, and never below 0."""

    peak: float
    """Highest excess in the image."""
    total: float
    """Sum of the excess over the image. 0 without anomalous pixels."""
    inside: float
    """Sum over the anomalous pixels. 0 without any."""
    around: float
    """Sum over the surroundings of the anomalous pixels. 0 without any."""
    region_peaks: npt.NDArray[np.float32]
    """(r,) float32: highest heat in each region of the mask."""


class HeatCounts(Protocol):
    """Counts heat maps batch by batch."""

    def add(self, image_ids: Sequence[str], maps: Any, masks: Sequence[Mask | None]) -> None:
        """Count the heat maps of some images, all of them or, after an exception, none.

        Args:
            image_ids: Ids of the images.
            maps: (B, H, W) float32, at the resolution of the images.
            masks: Their anomalous pixels. None if unknown: such an image has no pixel metrics.
        """
        ...

    def finish(self) -> tuple[PixelSketch, list[Heat]]:
        """Return the counts of the pixels, and the numbers of each image in the order in which they were added."""
        ...


class HostCounts:
    """Counts heat maps that are NumPy arrays.

    Args:
        typical: Heat of a typical OK image.
        threads: CPU threads to use.
    """

    def __init__(self, typical: float, threads: int) -> None:
        self._typical, self._threads = np.float32(typical), threads
        self._pixels = PixelSketch.empty()
        self._heats: list[Heat] = []

    def add(
        self, image_ids: Sequence[str], maps: Sequence[npt.NDArray[np.float32]], masks: Sequence[Mask | None]
    ) -> None:
        """See `HeatCounts`."""
        known = zip(image_ids, maps, masks, strict=True)
        heats = [self._heat(heatmap, mask) for heatmap, mask in zip(maps, masks, strict=True)]
        self._pixels.add([PixelMap(name, heatmap, mask) for name, heatmap, mask in known if mask], self._threads)
        self._heats += heats

    def _heat(self, heatmap: npt.NDArray[np.float32], mask: Mask | None) -> Heat:
        peak = float(max(heatmap.max() - self._typical, np.float32(0)))
        if mask is None or not len(mask.pixels):
            return Heat(peak, 0.0, 0.0, 0.0, np.empty(0, np.float32))
        flat = heatmap.ravel()
        excess = np.maximum(flat - self._typical, 0)
        parts = (excess, excess[mask.pixels], excess[mask.around])
        total, inside, around = (float(part.sum(dtype=np.float64)) for part in parts)
        region_peaks = np.full(len(mask.areas), -np.inf, np.float32)
        np.maximum.at(region_peaks, mask.regions, flat[mask.pixels])
        return Heat(peak, total, inside, around, region_peaks)

    def finish(self) -> tuple[PixelSketch, list[Heat]]:
        """See `HeatCounts`."""
        return self._pixels, self._heats
