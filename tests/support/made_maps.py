"""Heat maps with masks as plain arrays, and what the metrics make of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from raybench.metrics.heat import Heat, HostCounts
from raybench.metrics.masks import Mask
from raybench.metrics.pixel import PixelMap, PixelSketch
from raybench.metrics.roi import Roi


@dataclass(frozen=True)
class MadeMap:
    """The heat map of one image."""

    image_id: str
    heatmap: npt.NDArray[np.float32]
    """(H, W) float32."""
    mask: npt.NDArray[np.bool_]
    """(H, W) bool, True where the image is anomalous."""
    inside: npt.NDArray[np.bool_] | None = None
    """(H, W) bool, the region of interest."""

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool, True where pixels count."""
        return np.ones(self.mask.shape, bool) if self.inside is None else self.inside

    @property
    def pixel_map(self) -> PixelMap:
        return PixelMap(self.image_id, self.heatmap, Mask.of(self.mask, self.roi))

    @property
    def roi(self) -> Roi | None:
        return None if self.inside is None else Roi.of(self.inside)


def sketch_of(maps: Iterable[MadeMap], threads: int = 1) -> PixelSketch:
    sketch = PixelSketch.empty()
    sketch.add([one.pixel_map for one in maps], threads)
    return sketch


def heat_of(heatmap: npt.NDArray[np.float32], mask: Mask | None, typical: float = 0.0) -> Heat:
    counts = HostCounts(typical, threads=1)
    counts.add(["a"], [heatmap], [mask])
    [heat] = counts.finish()[1]
    return heat


def assert_same_heat(found: Heat, expected: Heat) -> None:
    """Equal but for the order of summation."""
    assert found.peak == expected.peak
    assert found.region_peaks.dtype == expected.region_peaks.dtype
    assert np.array_equal(found.region_peaks, expected.region_peaks)
    sums = [[heat.total, heat.inside, heat.around] for heat in (found, expected)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-12, abs=0)
