from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from raybench.errors import IntegrityError
from raybench.metrics.masks import Mask
from raybench.metrics.numbers import Threshold
from raybench.metrics.regions import SIZES, Regions, region_recall
from tests.support.made_maps import heat_of


def at(value: float | None) -> Threshold:
    return Threshold(value, 40, 0.05, 0.05, 0.0)


def image(seed: int, side: int = 32) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(side, side)).astype(np.float32), rng.random((side, side)) < 0.05


def regions_of(
    image_id: str, defect_type: str, heatmap: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]
) -> Regions:
    prepared = Mask.of(mask)
    return Regions.of(image_id, defect_type, heat_of(heatmap, prepared).region_peaks, prepared)


@given(seed=st.integers(0, 200), limit=st.floats(-1, 3))
@settings(deadline=None, max_examples=40)
def test_agrees_with_scipy_region_by_region(seed: int, limit: float) -> None:
    heat, mask = image(seed)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    peaks = ndimage.maximum(heat, labels, range(1, count + 1))
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1))
    found = regions_of("a", "scratch", heat, mask)
    assert sorted(found.peaks.tolist()) == sorted(np.asarray(peaks, np.float32).tolist())
    assert sorted(found.area_px.tolist()) == sorted(areas.astype(int).tolist())
    assert found.image_px.tolist() == [heat.size] * count
    recall = region_recall(found, at(limit))
    assert recall.all.value == pytest.approx((np.asarray(peaks, np.float32) > limit).mean())
    assert recall.all.n == count


def test_kinds_and_sizes_are_told_apart() -> None:
    heat = np.zeros((100, 100), np.float32)
    mask = np.zeros((100, 100), bool)
    mask[:20, :20], mask[50, 50], mask[80:83, 80:83] = True, True, True  # 4 %, 0.01 % and 0.09 % of the image
    heat[3, 3] = 2.0
    crack = regions_of("a", "crack", heat, mask)
    hole = regions_of("b", "", 3 + heat, np.roll(mask, 5, axis=1))
    found = region_recall(crack.merge(hole), at(1.0))
    assert found.all.value == pytest.approx(4 / 6)
    assert {name: number.value for name, number in found.by_type.items()} == {"crack": 1 / 3, "defect": 1.0}
    small, _, large = SIZES
    assert {name: number.value for name, number in found.by_size.items()} == {small: 0.5, large: 1.0}
    assert found.by_type["crack"].low == pytest.approx(0.0084, abs=1e-4)  # Clopper-Pearson of 1 in 3


def test_at_the_threshold_is_not_above() -> None:
    heat, mask = np.ones((4, 4), np.float32), np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert region_recall(regions_of("a", "x", heat, mask), at(1.0)).all.value == 0.0


def test_undefined_recall_says_why() -> None:
    heat, mask = image(0)
    some = regions_of("a", "x", heat, mask)
    assert region_recall(Regions.empty(), at(1.0)).all.reason == "no masks of defects"
    assert region_recall(some, Threshold(None, 0, 0.05, 0.0)).all.reason == "no heat maps"
    assert "needs 19" in str(region_recall(some, Threshold(None, 3, 0.05, 0.0, None, "needs 19")).all.reason)


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(deadline=None, max_examples=20)
def test_merging_is_idempotent_and_free_of_order(order: list[int], cut: int) -> None:
    parts = [regions_of(f"image {seed}", "x", *image(seed)) for seed in range(5)]
    whole = Regions.empty().merge(*parts)
    first = Regions.empty().merge(*(parts[seed] for seed in order[:cut]))
    again = first.merge(*(parts[seed] for seed in order[cut:])).merge(*(parts[seed] for seed in order[:3]))
    assert again.to_bytes() == whole.to_bytes()
    assert Regions.from_bytes(whole.to_bytes()).to_bytes() == whole.to_bytes()


def test_an_image_has_one_heat_map() -> None:
    heat, mask = image(0)
    with pytest.raises(IntegrityError, match="two different heat maps"):
        regions_of("a", "x", heat, mask).merge(regions_of("a", "x", heat + 1, mask))
