from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from raybench.metrics.heat import HostCounts
from raybench.metrics.masks import Mask
from raybench.metrics.pixel import PixelMap, PixelSketch
from tests.support.made_maps import assert_same_heat, heat_of
from tests.support.made_masks import masks


def test_by_hand() -> None:
    """An image of 100 x 100 px, so the surroundings are 3 px wide."""
    heatmap = np.full((100, 100), 2, np.float32)
    mask = np.zeros((100, 100), bool)
    mask[10, 10:12], mask[50, 50] = True, True
    heatmap[10, 10:12], heatmap[50, 50] = (5, 7), 1
    heatmap[13, 14], heatmap[13, 15], heatmap[80, 80] = 3.5, 4.5, 9  # just inside the surroundings, just outside, far
    heat = heat_of(heatmap, Mask.of(mask), typical=2.0)
    assert heat.peak == 7
    assert (heat.inside, heat.around) == (3 + 5, 1.5)
    assert heat.total == 3 + 5 + 1.5 + 2.5 + 7
    assert sorted(heat.region_peaks.tolist()) == [1, 7]


@given(masks(), st.integers(0, 99), st.floats(-2, 2, width=32))
def test_agrees_with_dense_arrays(mask: np.ndarray, seed: int, typical: float) -> None:
    heatmap = np.random.default_rng(seed).normal(size=mask.shape).astype(np.float32)
    prepared = Mask.of(mask)
    heat = heat_of(heatmap, prepared, typical)
    excess = np.maximum(heatmap - np.float32(typical), 0).astype(np.float64)
    assert heat.peak == excess.max()
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    peaks = ndimage.maximum(heatmap, labels, range(1, count + 1))
    assert sorted(heat.region_peaks.tolist()) == sorted(np.asarray(peaks).tolist())
    assert heat.region_peaks[prepared.regions].tolist() == np.append(0, peaks)[labels[mask]].tolist()
    margin = max(1, round(0.03 * min(mask.shape)))
    near = ndimage.binary_dilation(mask, structure=np.ones((2 * margin + 1, 2 * margin + 1)))
    sums = [excess.sum(), excess[mask].sum(), excess[near & ~mask].sum()]
    assert [heat.total, heat.inside, heat.around] == pytest.approx(sums, rel=1e-12, abs=0)


@pytest.mark.parametrize("mask", [None, Mask.empty(3, 4)])
def test_without_anomalous_pixels_there_is_a_peak_only(mask: Mask | None) -> None:
    heat = heat_of(np.arange(12, dtype=np.float32).reshape(3, 4), mask, typical=4.0)
    assert (heat.peak, heat.total, heat.inside, heat.around, len(heat.region_peaks)) == (7, 0, 0, 0, 0)


def test_no_heat_above_that_of_an_ok_image() -> None:
    heat = heat_of(np.zeros((3, 4), np.float32), Mask.of(np.eye(3, 4, dtype=bool)), typical=4.0)
    assert (heat.peak, heat.total, heat.inside, heat.around) == (0, 0, 0, 0)
    assert heat.region_peaks.tolist() == [0]


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_by_batch(threads: int) -> None:
    """Images with a known mask are in the counts of pixels; all images are in the numbers, in their order."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(20, 30)).astype(np.float32) for _ in range(5)]
    known = [Mask.of(rng.random((20, 30)) < 0.1), None, Mask.empty(20, 30), Mask.of(rng.random((20, 30)) < 0.01), None]
    counts = HostCounts(0.5, threads)
    counts.add(["a", "b", "c"], maps[:3], known[:3])
    counts.add(["d", "e"], maps[3:], known[3:])
    pixels, heats = counts.finish()
    expected = PixelSketch.empty()
    expected.add([PixelMap(name, each, mask) for name, each, mask in zip("abcde", maps, known, strict=True) if mask])
    assert pixels.to_bytes() == expected.to_bytes()
    for heat, each, mask in zip(heats, maps, known, strict=True):
        assert_same_heat(heat, heat_of(each, mask, 0.5))


def test_no_images() -> None:
    pixels, heats = HostCounts(0.0, 1).finish()
    assert pixels.to_bytes() == PixelSketch.empty().to_bytes()
    assert heats == []


def test_a_batch_with_nan_is_counted_not_at_all() -> None:
    good, bad = np.ones((2, 3, 3), np.float32)
    bad[1, 1] = np.nan
    mask = Mask.empty(3, 3)
    counts = HostCounts(0.0, 1)
    with pytest.raises(ValueError, match="NaN"):
        counts.add(["a", "b"], [good, bad], [mask, mask])
    pixels, heats = counts.finish()
    assert pixels.to_bytes() == PixelSketch.empty().to_bytes()
    assert heats == []
