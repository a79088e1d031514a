"""Bring heat maps to the resolution of their images, and count them, where they lie: on the host or on a GPU.

Outside the region of interest of an image, a heat map says nothing: neither there nor in what is kept of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raybench.data.geometry import InputFit, box_of, to_source
from raybench.data.roi import kept_in_network, level_outside, peak
from raybench.detectors.protocol import Detector, Scored
from raybench.metrics.heat import HeatCounts, HostCounts
from raybench.metrics.roi import Roi
from raybench.runs.scores import LEVELS, quantise, restore
from raybench.worker.batches import ScoredBatch


class Frame(NamedTuple):
    """The image that a heat map is of."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    roi: Roi | None = None
    """Its region of interest. None if all of it is looked at."""


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


def inside_only(batch: ScoredBatch, rois: Sequence[Roi | None], fit: InputFit, detector: Detector) -> ScoredBatch:
    """Return a batch whose heat maps have their lowest value where no pixel of the region of interest depends on them.

    A score that is the highest value of a heat map becomes that of the other pixels: a network that looks at a
    neighbourhood may find a defect in what lies outside next to it, and the edge of the region anywhere. Other scores
    stay: a detector has not seen what lies outside, see `data.roi.fill_outside`.

    Args:
        batch: The batch.
        rois: Regions of interest of all images, of which those at the batch's positions count.
        fit: How the images were fitted to the network.
        detector: The detector that has scored it.
    """
    regions = [rois[position] for position in batch.positions]
    if batch.heatmaps is None or not any(regions):
        return batch
    kept = [None if roi is None else kept_in_network(roi, fit) for roi in regions]

    by_peak = getattr(detector, "scores_by_peak", False)

    def level(scored: Scored) -> Scored:
        if scored.heatmaps is None:
            return scored
        pairs = list(zip(scored.heatmaps, kept, strict=True))
        peaks = [
            score if here is None or not by_peak else peak(heatmap, here)
            for score, (heatmap, here) in zip(scored.scores.tolist(), pairs, strict=True)
        ]
        return Scored(np.array(peaks, np.float64), np.stack([level_outside(*pair) for pair in pairs]))

    if isinstance(batch.heatmaps, np.ndarray):
        levelled = level(batch.scored())
        return replace(batch, heatmaps=levelled.heatmaps, scored=lambda: levelled)
    from raybench.metrics import on_device

    whole = np.ones((fit.height, fit.width), np.bool_)
    inside = np.stack([whole if here is None else here for here in kept])
    return replace(batch, heatmaps=on_device.levelled(batch.heatmaps, inside), scored=lambda: level(batch.scored()))


def at_source(
    maps: Any, rows: Sequence[int], frames: Sequence[Frame], fit: InputFit, device: str
) -> Iterator[tuple[Frame, list[int], Any]]:
    """Resize heat maps to their images, those of one size and region of interest together.

    Args:
        maps: (B, h, w) float32 at the network's size: a NumPy array, or a tensor on the device.
        rows: The maps to resize.
        frames: The image of each of `rows`.
        fit: How the images were fitted to the network.
        device: Torch's name of the device that resizes.

    Yields:
        A frame, the `rows` that have it, and their maps: a list of arrays (H, W) on the CPU, else a tensor (N, H, W) on
        the device.
    """
    for frame in dict.fromkeys(frames):
        size = frame.height, frame.width
        chosen = [row for row, own in zip(rows, frames, strict=True) if own == frame]
        if device == "cpu":
            yield frame, chosen, [to_source(maps[row], fit, *size) for row in chosen]
        else:
            from raybench.metrics import on_device

            box = box_of(fit, *size)
            inner = on_device.on(maps, device)[chosen, box.top : box.top + box.height, box.left : box.left + box.width]
            yield frame, chosen, on_device.resized(inner, *size)


def filled(maps: Any, roi: Roi | None, value: float, device: str) -> Any:
    """Return the maps that `at_source` yields with `value`, rounded to float32, outside their region of interest."""
    if roi is None:
        return maps
    if device == "cpu":
        return [np.where(roi.inside, full, np.float32(value)) for full in maps]
    from raybench.metrics import on_device

    return on_device.filled(maps, roi, value)


def middles_and_peaks(
    maps: Any, roi: Roi | None, device: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the median and the maximum, in their region of interest, of each of the maps that `at_source` yields."""
    if device == "cpu":
        counted = [full if roi is None else full[roi.inside] for full in maps]
        return np.array([np.median(values) for values in counted], np.float64), np.array(
            [values.max() for values in counted], np.float64
        )
    from raybench.metrics import on_device

    return on_device.middles_and_peaks(maps, roi)
