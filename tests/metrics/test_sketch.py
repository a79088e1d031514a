from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raybench.metrics import sketch as sketch_module
from raybench.metrics.sketch import Sketch, ordered_keys, runs, shift_for, tabulate

floats = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False))


def of(values: npt.NDArray[np.float32]) -> Sketch:
    return Sketch.of(ordered_keys(values), np.ones((len(values), 1), np.int64))


def same(first: Sketch, second: Sketch) -> bool:
    return (
        first.shift == second.shift
        and np.array_equal(first.low, second.low)
        and np.array_equal(first.high, second.high)
        and np.array_equal(first.columns, second.columns)
    )


@given(floats)
def test_keys_keep_the_order(values: npt.NDArray[np.float32]) -> None:
    keys, values = ordered_keys(values), values + np.float32(0)
    assert np.array_equal(values[np.argsort(keys, kind="stable")], np.sort(values))
    assert len(np.unique(keys)) == len(np.unique(values))


def test_both_zeros_are_one() -> None:
    first, second = ordered_keys(np.array([0.0, -0.0], np.float32))
    assert first == second


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ordered_keys(np.array([np.nan], np.float32))


@given(st.lists(floats, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_merging_is_exact_in_any_order_and_split(parts: list[npt.NDArray[np.float32]], random: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", 8)
        whole = of(np.concatenate(parts))
        shuffled = list(parts)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        merged = Sketch.empty(1)
        for part in shuffled:
            merged = merged.merge(of(part))
    assert len(whole.low) <= 8
    assert same(merged, whole)
    assert whole.columns.sum() == sum(len(part) for part in parts)


narrow = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(1, 1 + 2**-14, width=32))


@given(floats | narrow, st.sampled_from([1, 16, 2**18]), st.sampled_from([8, 65_536]))
def test_counting_is_the_same_as_adding_ones(values: npt.NDArray[np.float32], table: int, cap: int) -> None:
    """By a table, or by sorting where a table would be too coarse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", cap)
        patch.setattr(sketch_module, "TABLE", table)
        assert same(Sketch.counting(ordered_keys(values), (0,), 1), of(values))


@given(st.lists(floats | narrow, min_size=1, max_size=5))
@settings(deadline=None)
def test_counting_may_start_at_the_shift_of_what_came_before(parts: list[npt.NDArray[np.float32]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", 8)
        patch.setattr(sketch_module, "TABLE", 64)
        merged = Sketch.empty(1)
        for part in parts:
            merged = merged.merge(Sketch.counting(ordered_keys(part), (0,), 1, merged.shift))
        assert same(merged, of(np.concatenate(parts)))


@given(floats | narrow, st.integers(0, 12))
def test_a_table_counts_what_runs_count(values: npt.NDArray[np.float32], places: int) -> None:
    keys = ordered_keys(values)
    found, expected = tabulate(keys, shift_for(keys, 2**places)), runs(keys)
    assert (int(found.high[-1]) >> found.shift) - (int(found.low[0]) >> found.shift) < 2**places
    assert found.counts.sum() == len(keys)
    bucket = np.searchsorted(found.low, expected.low, side="right") - 1
    assert np.array_equal(np.bincount(bucket, expected.counts), found.counts)
    assert np.array_equal(expected.low[np.searchsorted(expected.low, found.high)], found.high)
