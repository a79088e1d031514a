from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from raybench.metrics.masks import Mask
from raybench.metrics.roi import Roi
from tests.support.made_masks import masks

SQUARE = np.ones((3, 3))
small = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@given(masks() | small)
def test_agrees_with_scipy(mask: npt.NDArray[np.bool_]) -> None:
    found = Mask.of(mask)
    assert (found.height, found.width, found.size) == (*mask.shape, mask.size)
    skipped = found.not_normal()
    assert np.array_equal(np.zeros(mask.size, bool) if skipped is None else skipped, mask.ravel())
    assert np.array_equal(found.pixels, np.flatnonzero(mask))
    labels, count = ndimage.label(mask, structure=SQUARE)
    pairs = set(zip(found.regions.tolist(), labels[mask].tolist(), strict=True))
    assert sorted(ours for ours, _ in pairs) == list(range(count))  # one region of theirs for each of ours
    assert sorted(theirs for _, theirs in pairs) == list(range(1, count + 1))
    assert found.areas.tolist() == [np.count_nonzero(labels == theirs) for _, theirs in sorted(pairs)]


@given(masks() | small)
def test_surroundings_agree_with_scipy(mask: npt.NDArray[np.bool_]) -> None:
    margin = max(1, round(0.03 * min(mask.shape)))
    near = ndimage.binary_dilation(mask, structure=np.ones((2 * margin + 1, 2 * margin + 1)))
    assert np.array_equal(Mask.of(mask).around, np.flatnonzero(near & ~mask))


@given(masks(), st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_only_the_region_of_interest_counts(mask: npt.NDArray[np.bool_], seed: int, share: float) -> None:
    inside = np.random.default_rng(seed).random(mask.shape) < share
    roi = Roi.of(inside)
    found, cut = Mask.of(mask, roi), Mask.of(mask & inside)
    for name in ("pixels", "regions", "areas"):
        assert np.array_equal(getattr(found, name), getattr(cut, name))
    assert np.array_equal(found.around, cut.around[inside.ravel()[cut.around]])
    assert found.normal == found.without_pixels().normal == np.count_nonzero(inside & ~mask)
    skipped = found.not_normal()
    assert skipped is not None
    assert np.array_equal(skipped, (~inside | mask).ravel())


@given(masks() | small)
def test_a_region_of_interest_is_what_it_was_made_of(inside: npt.NDArray[np.bool_]) -> None:
    roi = Roi.of(inside)
    assert np.array_equal(roi.inside, inside)
    assert roi.outside_px == np.count_nonzero(~inside)
    again = Roi.from_text(roi.to_text())
    assert (again, hash(again)) == (roi, hash(roi))


@pytest.mark.parametrize(("shorter", "margin"), [(10, 1), (100, 3), (400, 12)])
def test_surroundings_grow_with_the_shorter_side(shorter: int, margin: int) -> None:
    mask = np.zeros((shorter, 500), bool)
    mask[shorter // 2, 100] = True
    rows, columns = np.divmod(Mask.of(mask).around, 500)
    assert len(rows) == (2 * margin + 1) ** 2 - 1
    assert np.abs(rows - shorter // 2).max() == np.abs(columns - 100).max() == margin


@given(st.integers(1, 9), st.integers(1, 9))
def test_without_anomalous_pixels(height: int, width: int) -> None:
    for found in (Mask.empty(height, width), Mask.of(np.zeros((height, width), bool))):
        assert (found.height, found.width) == (height, width)
        assert [len(getattr(found, name)) for name in ("pixels", "regions", "areas", "around")] == [0, 0, 0, 0]
        assert found.not_normal() is None


@given(masks() | small)
def test_types_are_those_that_are_stored(mask: npt.NDArray[np.bool_]) -> None:
    found = Mask.of(mask)
    types = {name: getattr(found, name).dtype for name in ("pixels", "regions", "around", "areas")}
    assert types == {"pixels": np.int32, "regions": np.int32, "around": np.int32, "areas": np.int64}
