"""Bring heat maps to the resolution of their images, and count them, where they lie: on the host or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.data.geometry import InputFit, box_of, to_source
from raybench.metrics.heat import HeatCounts, HostCounts
from raybench.runs.scores import LEVELS, quantise, restore

Sizes = Sequence[tuple[int, int]]


def counts_on(device: str, typical: float, threads: int) -> HeatCounts:
    """Return an empty count of heat maps.

    Args:
        device: Torch's name of the device that counts.
        typical: Heat of a typical OK image.
        threads: CPU threads, for a count on the CPU.
    """
    if device == "cpu":
        return HostCounts(typical, threads)
    from raybench.metrics.on_device import DeviceCounts  # a CPU task may not need torch, which takes seconds to import

    return DeviceCounts(typical)


def as_stored(maps: Any) -> Any:
    """Return heat maps as they are read back from a scores shard, rounded to its levels.

    Args:
        maps: (B, h, w) float32: a NumPy array, or a tensor on a device.
    """
    if isinstance(maps, np.ndarray):
        return np.stack([restore(*quantise(heatmap)) for heatmap in maps])
    from raybench.metrics import on_device

    return on_device.rounded(maps, LEVELS)


def at_source(
    maps: Any, rows: Sequence[int], sizes: Sizes, fit: InputFit, device: str
) -> Iterator[tuple[list[int], Any]]:
    """Resize heat maps to their images, those of one size together.

    Args:
        maps: (B, h, w) float32 at the network's size: a NumPy array, or a tensor on the device.
        rows: The maps to resize.
        sizes: Height and width of the image of each of `rows`.
        fit: How the images were fitted to the network.
        device: Torch's name of the device that resizes.

    Yields:
        Some of `rows`, and their maps: a list of arrays (H, W) on the CPU, else a tensor (N, H, W) on the device.
    """
    for size in dict.fromkeys(sizes):
        chosen = [row for row, own in zip(rows, sizes, strict=True) if own == size]
        if device == "cpu":
            yield chosen, [to_source(maps[row], fit, *size) for row in chosen]
        else:
            from raybench.metrics import on_device

            box = box_of(fit, *size)
            inner = on_device.on(maps, device)[chosen, box.top : box.top + box.height, box.left : box.left + box.width]
            yield chosen, on_device.resized(inner, *size)


def middles_and_peaks(maps: Any, device: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the median and the maximum of each of the maps that `at_source` yields."""
    if device == "cpu":
        return np.array([np.median(full) for full in maps], np.float64), np.array(
            [full.max() for full in maps], np.float64
        )
    from raybench.metrics import on_device

    return on_device.middles_and_peaks(maps)
