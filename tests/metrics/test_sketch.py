from __future__ import annotations

import random
import threading

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raybench.metrics import sketch as sketch_module
from raybench.metrics.sketch import Histogram, Keys, Sketch, ascending, ordered_keys, shift_for, tabulate

Floats = npt.NDArray[np.float32]

floats = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False))
narrow = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(1, 1 + 2**-14, width=32))
sizes = st.integers(1, 300)
keys_of_any_kind = (
    (floats | narrow).map(ordered_keys)
    | hnp.arrays(np.uint32, sizes)
    | hnp.arrays(np.uint32, sizes, elements=st.integers(2**31 - 2**12, 2**31 + 2**12))
    | hnp.arrays(np.uint32, sizes, elements=st.integers(0, 2**32 - 1).map(lambda key: key & 0xFFF00003))
)


def counted_exactly(keys: Keys, shift: int) -> Histogram:
    """By sorting."""
    ordered = np.sort(keys)
    _, starts, counts = np.unique(ordered >> np.uint32(shift), return_index=True, return_counts=True)
    return Histogram(shift, ordered[starts], ordered[starts + counts - 1], counts)


def added_up_exactly(keys: Keys, columns: npt.NDArray[np.int64], cap: int, least: int = 0) -> Sketch:
    """At the first shift, from `least` on, with at most `cap` buckets."""
    shift = least
    while len(np.unique(keys >> np.uint32(shift))) > cap:
        shift += 1
    found = counted_exactly(keys, shift)
    bucket = np.searchsorted(found.low, keys, side="right") - 1
    sums = np.zeros((len(found.low), columns.shape[1]), np.int64)
    np.add.at(sums, bucket, columns)
    return Sketch(shift, found.low, found.high, sums)


def ones(keys: Keys) -> npt.NDArray[np.int64]:
    return np.ones((len(keys), 1), np.int64)


def assert_same(found: Sketch | Histogram, expected: Sketch | Histogram) -> None:
    assert found.shift == expected.shift
    for name in vars(expected):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@given(floats)
def test_keys_keep_the_order(values: Floats) -> None:
    keys, values = ordered_keys(values), values + np.float32(0)
    assert np.array_equal(values[np.argsort(keys, kind="stable")], np.sort(values))
    assert len(np.unique(keys)) == len(np.unique(values))


@given(floats, st.randoms(use_true_random=False))
def test_keys_without_some(values: Floats, chosen: random.Random) -> None:
    skipped = np.array([chosen.random() < 0.5 for _ in values])
    values[skipped & (values > 1)] = np.nan  # what is skipped may be anything
    assert np.array_equal(ordered_keys(values, skipped), ordered_keys(values[~skipped]))


def test_both_zeros_are_one() -> None:
    first, second = ordered_keys(np.array([0.0, -0.0], np.float32))
    assert first == second


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF])
def test_nan_is_refused(bits: int) -> None:
    values = np.array([0, bits, 0], np.uint32).view(np.float32)
    with pytest.raises(ValueError, match="NaN"):
        ordered_keys(values)
    with pytest.raises(ValueError, match="NaN"):
        ordered_keys(values, np.array([True, False, False]))


@given(keys_of_any_kind)
def test_ascending_keeps_equal_keys_in_order(keys: Keys) -> None:
    assert np.array_equal(ascending(keys), np.argsort(keys, kind="stable"))


@given(keys_of_any_kind, st.integers(1, 2**12))
def test_shift_for_is_the_smallest_that_spans_no_more_buckets(keys: Keys, buckets: int) -> None:
    first, last = int(keys.min()), int(keys.max())
    shift = shift_for(first, last, buckets)
    assert (last >> shift) - (first >> shift) < buckets
    assert shift == 0 or (last >> (shift - 1)) - (first >> (shift - 1)) >= buckets


@given(
    st.lists(st.tuples(keys_of_any_kind, st.integers(0, 31)), min_size=1, max_size=4), st.sampled_from([1, 3, 2**14])
)
def test_a_table_counts_what_a_sort_counts(parts: list[tuple[Keys, int]], pages: int) -> None:
    """One after the other in the same table: narrow buckets, and a table that is too small, are sorted instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "PAGES", pages)
        patch.setattr(sketch_module, "_local", threading.local())  # a thread's table is kept, in its first size
        for keys, shift in parts:
            assert_same(tabulate(keys, shift), counted_exactly(keys, shift))


def test_the_table_is_used_unless_buckets_are_narrow_or_scattered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page holds 64 buckets."""
    sorts = []

    def watched(keys: Keys, shift: int) -> Histogram:
        sorts.append(shift)
        return counted_exactly(keys, shift)

    monkeypatch.setattr(sketch_module, "_sorted", watched)  # both ways count alike: only the time tells which it was
    monkeypatch.setattr(sketch_module, "PAGES", 3)
    monkeypatch.setattr(sketch_module, "_local", threading.local())
    keys = np.arange(0, 3 * 64 << 6, 5, dtype=np.uint32)
    tabulate(keys, 6)
    assert sorts == []
    tabulate(keys, 5)
    tabulate(np.append(keys, np.uint32(3 * 64 << 6)), 6)
    assert sorts == [5, 6]


def test_a_count_that_is_interrupted_leaves_nothing_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.arange(0, 2**16, 3, dtype=np.uint32)
    monkeypatch.setattr(sketch_module, "_local", threading.local())  # a fault stays in this test
    with monkeypatch.context() as patch:  # a signal comes between two steps, which have no public names
        patch.setattr(sketch_module, "_collect", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tabulate(keys, 6)
    assert_same(tabulate(keys, 6), counted_exactly(keys, 6))


def test_no_keys() -> None:
    none = np.empty(0, np.uint32)
    for shift in (0, 8):
        assert_same(tabulate(none, shift), Histogram(shift, none, none, np.empty(0, np.int64)))
    assert_same(Sketch.ascending(none, ones(none)), Sketch.empty(1))


@given(keys_of_any_kind, st.integers(0, 12), st.integers(0, 12))
def test_a_coarser_histogram(keys: Keys, shift: int, more: int) -> None:
    assert_same(tabulate(keys, shift).coarser(shift + more), counted_exactly(keys, shift + more))


@given(keys_of_any_kind, st.integers(0, 12), st.sampled_from([1, 8, 65_536]), st.randoms(use_true_random=False))
def test_columns_are_added_up_by_bucket(keys: Keys, shift: int, cap: int, chosen: random.Random) -> None:
    keys = np.sort(keys)
    columns = np.array([[chosen.randint(0, 2**40) for _ in range(2)] for _ in keys], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", cap)
        found = Sketch.ascending(keys, columns, shift)
    assert len(found.low) <= cap
    assert_same(found, added_up_exactly(keys, columns, cap, shift))
    assert np.array_equal(
        found.tied, [len(np.unique(keys[keys >> found.shift == low >> found.shift])) == 1 for low in found.low]
    )


@given(keys_of_any_kind, st.integers(0, 12), st.sampled_from([1, 8, 65_536]))
def test_counting_is_the_same_as_adding_ones(keys: Keys, shift: int, cap: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", cap)
        found = Sketch.counted(tabulate(keys, shift), (0, 2), 3)
    assert_same(found, added_up_exactly(keys, np.repeat([[1, 0, 1]], len(keys), axis=0), cap, shift))


@given(st.lists(keys_of_any_kind, min_size=1, max_size=6), st.randoms(use_true_random=False), st.sampled_from([8, 64]))
def test_merging_is_exact_in_any_order_and_split(parts: list[Keys], order: random.Random, cap: int) -> None:
    """Parts are counted from any shift on up to that of what came before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch_module, "CAP", cap)
        merged = Sketch.empty(1)
        for part in order.sample(parts, len(parts)):
            shift = order.choice([0, order.randint(0, merged.shift), merged.shift])
            by_table, keys = order.random() < 0.5, np.sort(part)
            counted = Sketch.counted(tabulate(part, shift), (0,), 1) if by_table else Sketch.ascending(keys, ones(keys))
            merged = merged.merge(counted) if order.random() < 0.5 else counted.merge(merged)
        at_once = Sketch.empty(1).merge(*(Sketch.counted(tabulate(part, 0), (0,), 1) for part in parts))
    whole = np.concatenate(parts)
    assert_same(merged, added_up_exactly(whole, ones(whole), cap))
    assert_same(at_once, merged)
