from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raybench.metrics import sketch as sketch_module
from raybench.metrics.sketch import Sketch, ordered_keys

floats = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False))


def of(values: npt.NDArray[np.float32]) -> Sketch:
    return Sketch.of(ordered_keys(values), np.ones((len(values), 1), np.int64))


def same(first: Sketch, second: Sketch) -> bool:
    return (
        first.shift == second.shift
        and np.array_equal(first.keys, second.keys)
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
    assert len(whole.keys) <= 8
    assert same(merged, whole)
    assert whole.columns.sum() == sum(len(part) for part in parts)


@given(floats)
def test_counting_is_the_same_as_adding_ones(values: npt.NDArray[np.float32]) -> None:
    assert same(Sketch.counting(ordered_keys(values), 0, 1), of(values))
