from __future__ import annotations

import numpy as np
import pytest

from raybench.metrics.mean_ranks import average_ranks, largest_table, mean_ranks

# Demšar 2006, table 6: AUC of four variants of C4.5 on 14 data sets (`voting`: two are printed alike, ranked 2 and 3).
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def by_line(values: list[list[float | None]]) -> dict[str, dict[str, float | None]]:
    return {f"line-{at}": dict(zip("abcdefgh", row, strict=False)) for at, row in enumerate(values)}


def test_the_published_example() -> None:
    found = mean_ranks(by_line(DEMSAR.tolist()))
    assert [round(found[model].value or 0.0, 3) for model in "abcd"] == [3.143, 2.000, 2.893, 1.964]
    assert {number.n for number in found.values()} == {14}


def test_ranks_of_equal_and_of_failed_models() -> None:
    ranks = average_ranks(np.array([[0.9, 0.7, 0.9, 0.8], [np.nan, 0.6, np.nan, 0.7], [np.nan, 0.0, 0.5, 1.0]]))
    assert ranks.tolist() == [[1.5, 4.0, 1.5, 3.0], [3.5, 2.0, 3.5, 1.0], [4.0, 3.0, 2.0, 1.0]]


def test_failing_costs_ranks_and_drops_no_line() -> None:
    values: list[list[float | None]] = [[0.9, 0.8]] * 9
    assert mean_ranks(by_line(values))["a"].value == 1.0
    once = mean_ranks(by_line([*values, [None, 0.8]]))
    assert [once["a"].value, once["b"].value] == pytest.approx([1.1, 1.9])
    assert once["a"].n == 10


def test_few_lines_have_no_interval_and_equal_ones_a_narrow_one() -> None:
    few = mean_ranks(by_line([[0.9, 0.8]] * 4))["a"]
    assert (few.value, few.low, few.high, few.n) == (1.0, None, None, 4)
    same = mean_ranks(by_line([[0.9, 0.8]] * 5))["a"]
    assert (same.low, same.high) == (1.0, 1.0)
    assert mean_ranks(by_line([[0.9]] * 9)) == {}
    assert mean_ranks({}) == {}


def test_the_interval_covers_the_mean_over_all_lines_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    qualities = np.array([0.5, 0.3, 0.0])
    true = average_ranks(qualities + rng.normal(size=(200_000, 3))).mean(axis=0)
    hits = 0
    for _ in range(100):
        found = mean_ranks(by_line((qualities + rng.normal(size=(40, 3))).tolist()))
        hits += sum((found[m].low or 0) <= true[at] <= (found[m].high or 0) for at, m in enumerate("abc"))
    assert 0.90 <= hits / 300 <= 0.98


def test_the_largest_table() -> None:
    ten = set("abcdefghij")
    short = {f"pcb-{at}": {"a", "b"} for at in range(4)}
    lines = {f"line-{at}": ten for at in range(16)}
    assert largest_table(lines | short) == (tuple(sorted(ten)), tuple(lines))
    assert largest_table(lines | {"more": ten | {"k"}}) == (tuple(sorted(ten)), (*lines, "more"))
    assert largest_table({line: ten - {"a"} for line in lines} | {"one": ten})[0] == tuple(sorted(ten - {"a"}))
    assert largest_table({"one": {"a"}, "other": {"b"}}) == (("b",), ("other",))
    assert largest_table({}) == ((), ())
