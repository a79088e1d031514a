from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raybench.metrics.mean_ranks import average_ranks, critical_difference, largest_table, mean_ranks

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


def test_few_lines_have_no_interval_and_equal_ones_a_wide_one() -> None:
    few = mean_ranks(by_line([[0.9, 0.8]] * 2))["a"]
    assert (few.value, few.low, few.high, few.n) == (1.0, None, None, 2)
    widths = []
    for lines in (3, 5, 10, 20):
        same = mean_ranks(by_line([[0.9, 0.8]] * lines))["a"]
        assert same.low == 1.0
        assert same.high is not None
        widths.append(same.high - 1)
    assert widths == sorted(widths, reverse=True)
    assert widths[1] > 0.2
    assert mean_ranks(by_line([[0.9]] * 9)) == {}
    assert mean_ranks({}) == {}


@given(
    table=st.lists(st.lists(st.none() | st.integers(0, 4).map(float), min_size=3, max_size=3), min_size=3, max_size=9),
    order=st.permutations("abc"),
)
def test_an_interval_holds_its_mean_and_depends_on_no_names(table: list[list[float | None]], order: list[str]) -> None:
    found = mean_ranks(by_line(table))
    for number in found.values():
        assert number.value is not None
        assert number.low is not None
        assert number.high is not None
        assert 1 <= number.low <= number.value + 1e-9 <= number.high + 2e-9 <= 3 + 2e-9
    renamed = mean_ranks(
        {line: {order["abc".index(m)]: v for m, v in row.items()} for line, row in by_line(table).items()}
    )
    assert {order["abc".index(model)]: number for model, number in found.items()} == renamed


@pytest.mark.parametrize("lines", [5, 10, 20, 40])
@pytest.mark.parametrize("qualities", [(0.5, 0.0), (1.5, 0.0), (0.5, 0.3, 0.0)])
def test_the_interval_covers_the_mean_over_all_lines(lines: int, qualities: tuple[float, ...]) -> None:
    rng, repeats = np.random.default_rng(0), 150
    models = "abc"[: len(qualities)]
    true = average_ranks(qualities + rng.normal(size=(200_000, len(qualities)))).mean(axis=0)
    hits, of_winner = 0, 0
    for _ in range(repeats):
        found = mean_ranks(by_line((qualities + rng.normal(size=(lines, len(qualities)))).tolist()))
        covered = {m: (found[m].low or 0) <= true[at] <= (found[m].high or 0) for at, m in enumerate(models)}
        hits += sum(covered.values())
        of_winner += covered[min(models, key=lambda model: found[model].value or 0.0)]
    assert hits / (repeats * len(models)) >= 0.91
    assert of_winner / repeats >= 0.9


# Demšar 2006, table 5a: critical values of the two-tailed Nemenyi test at 5 %.
NEMENYI = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031}


@pytest.mark.parametrize("models", NEMENYI)
def test_the_critical_difference_has_the_published_quantile(models: int) -> None:
    table = np.random.default_rng(models).random((12, models)).tolist()
    found = critical_difference(by_line(table))
    assert found is not None
    assert (found.models, found.lines) == (models, 12)
    assert found.difference == pytest.approx(NEMENYI[models] * np.sqrt(models * (models + 1) / 72), rel=1e-3)


def test_the_critical_difference_of_the_published_example() -> None:
    found = critical_difference(by_line(DEMSAR.tolist()))
    assert found is not None
    assert found.difference == pytest.approx(1.25, abs=0.01)
    # His chi-square is 9.28 before the correction for ties, which divides it by 1 - sum(t^3 - t) / (N k (k^2 - 1)). The
    # ties are four models on one line and two on three: (60 + 3 * 6) / (14 * 60).
    assert found.p_value == pytest.approx(stats.chi2.sf(9.28 / (1 - 78 / 840), 3), abs=1e-3)
    assert found.sentence.startswith("Mean ranks differ over 14 lines with p = 0.017 (Friedman)")
    assert "two of 4 models differ at a level of 5 % if their mean ranks are 1.25 apart (Nemenyi)" in found.sentence


def test_no_critical_difference_of_two_models_few_lines_or_equal_ranks() -> None:
    assert critical_difference(by_line([[0.9, 0.8]] * 9)) is None
    assert critical_difference(by_line([[0.9, 0.8, 0.7]] * 2)) is None
    assert critical_difference(by_line([[0.9, 0.9, 0.9]] * 9)) is None
    assert critical_difference({}) is None


def test_failing_counts_in_the_critical_difference() -> None:
    finished: list[list[float | None]] = [[0.9, 0.8, 0.7]] * 6
    first, second = (critical_difference(by_line(finished + [[last, 0.8, 0.7]] * 6)) for last in (0.9, None))
    assert first is not None
    assert second is not None
    assert second.lines == first.lines == 12
    assert second.p_value > first.p_value


def test_the_largest_table() -> None:
    ten = set("abcdefghij")
    short = {f"pcb-{at}": {"a", "b"} for at in range(4)}
    lines = {f"line-{at}": ten for at in range(16)}
    assert largest_table(lines | short) == (tuple(sorted(ten)), tuple(lines))
    assert largest_table(lines | {"more": ten | {"k"}}) == (tuple(sorted(ten)), (*lines, "more"))
    assert largest_table({line: ten - {"a"} for line in lines} | {"one": ten})[0] == tuple(sorted(ten - {"a"}))
    assert largest_table({"one": {"a"}, "other": {"b"}}) == (("b",), ("other",))
    assert largest_table({}) == ((), ())
