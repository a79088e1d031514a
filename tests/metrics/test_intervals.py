from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from raybench.metrics.intervals import (
    bootstrap,
    clopper_pearson,
    fraction_interval,
    group_numbers,
    percentile_interval,
    resamples,
    share_change,
    share_interval,
)
from raybench.metrics.numbers import Estimate

Floats = npt.NDArray[np.float64]


@given(n=st.integers(1, 200), share=st.floats(0, 1))
def test_the_exact_interval_of_a_share(n: int, share: float) -> None:
    hits = round(share * n)
    low, high = clopper_pearson(hits, n)
    assert low == pytest.approx(stats.beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0)
    assert high == pytest.approx(stats.beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0)
    flags = np.arange(n) < hits
    assert share_interval(flags, np.arange(n)[::-1]) == (low, high)


@given(hits=st.lists(st.booleans(), min_size=2, max_size=40), copies=st.integers(2, 6))
def test_copies_of_an_image_are_no_further_images(hits: list[bool], copies: int) -> None:
    """A share of groups whose images are all alike is known no better than that of one image of each."""
    low, high = share_interval(np.repeat(hits, copies), np.repeat(np.arange(len(hits)), copies))
    alone = clopper_pearson(sum(hits), len(hits))
    assert low <= alone[0] + 1e-9
    assert high >= alone[1] - 1e-9


def test_groups_that_tell_nothing_hardly_widen_the_interval_of_a_share() -> None:
    hits = np.random.default_rng(0).random(1000) < 0.3
    low, high = share_interval(hits, np.arange(1000) // 5)
    assert [low, high] == pytest.approx(clopper_pearson(int(hits.sum()), 1000), abs=0.01)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    others=st.integers(1, 9),
    count=st.integers(1, 60),
    cells=st.sampled_from([0, 200_000]),
)
def test_weights_are_shared_within_groups_and_sum_to_the_number_of_images(
    sizes: list[int], others: int, count: int, cells: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    blocks = list(resamples([groups, np.arange(others)], count, seed=1, cells=cells))
    first, second = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    assert (first.shape, second.shape) == ((count, len(groups)), (count, others))
    assert (first >= 0).all()
    assert first.sum(axis=1) == pytest.approx(len(groups))
    assert second.sum(axis=1) == pytest.approx(others)
    for group in range(len(sizes)):
        members = first[:, groups == group]
        assert (members == members[:, :1]).all()


@pytest.mark.parametrize("n", [5, 10, 40])
def test_a_mean_has_student_s_interval(n: int) -> None:
    values = np.random.default_rng(3).normal(size=n)
    low, high = percentile_interval(bootstrap([np.arange(n)], lambda drawn: drawn @ values / n, count=20_000))
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    assert high - low == pytest.approx(2 * half, rel=0.12)


def test_the_mean_of_groups_is_covered() -> None:
    """Five photographs of each of ten parts."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 5)
    hits = 0
    for seed in range(400):
        values = rng.normal(size=10)[groups] + rng.normal(0, 0.3, 50)
        low, high = percentile_interval(
            bootstrap([groups], lambda drawn, of=values: drawn @ of / 50, seed=seed, count=400)
        )
        hits += low <= 0 <= high
    assert 0.91 <= hits / 400 <= 0.99


@pytest.mark.parametrize("n", [5, 20])
def test_a_mean_of_few_images_near_1_is_covered(n: int) -> None:
    """Most images have nearly 1, some far less: AU-PRO of images of which some are hard."""
    rng = np.random.default_rng(1)
    truth, hits, by_percentiles = 3.0 / 3.6, 0, 0
    for seed in range(400):
        values = rng.beta(3.0, 0.6, n)
        value = float(values.mean())
        drawn = bootstrap([np.arange(n)], lambda weights, of=values: weights @ of / n, seed=seed, count=400)
        low, high = fraction_interval(value, drawn - value)
        hits += low <= truth <= high
        low, high = percentile_interval(drawn)
        by_percentiles += low <= truth <= high
    assert by_percentiles < hits
    assert 0.92 <= hits / 400 <= 0.99


@given(st.floats(0, 1), st.integers(1, 8))
def test_an_interval_of_a_fraction_holds_it_and_is_one(value: float, count: int) -> None:
    offsets = np.random.default_rng(count).normal(0, 0.2, count)
    low, high = fraction_interval(value, np.append(offsets, [-0.3, 0.3]))
    assert 0 <= low <= value <= high <= 1
    assert fraction_interval(value, np.zeros(5)) == pytest.approx((value, value), abs=1e-4)


def test_groups_are_numbered_by_name() -> None:
    assert group_numbers(np.array(["b", "a", "c", "a"])).tolist() == [1, 0, 2, 0]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 40))
def test_a_change_that_is_sure_is_refused_by_mcnemars_exact_test(fell: int, rose: int, same: int) -> None:
    change = np.repeat([-1.0, 1.0, 0.0], [fell, rose, same])
    found = share_change(change, np.arange(len(change)), "NG")
    if not len(change):
        assert found == Estimate(None, reason="no NG images in common")
        return
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx((rose - fell) / len(change))
    assert -1 <= found.low <= found.value <= found.high <= 1
    if found.low > 0 or found.high < 0:
        assert binomtest(fell, fell + rose).pvalue < 0.05


def test_few_changes_are_not_sure_however_many_images_stay() -> None:
    def high(fell: int) -> float:
        change = np.repeat([-1.0, 0.0], [fell, 1000])
        return share_change(change, np.arange(len(change)), "NG").high or 0.0

    assert high(1) > 0
    assert high(5) > 0
    assert high(6) < 0


def test_images_of_one_group_count_once() -> None:
    change = np.repeat([-1.0, 0.0], [12, 24])
    assert (share_change(change, np.arange(36), "NG").high or 0.0) < 0
    assert (share_change(change, np.arange(36) // 6, "NG").high or 0.0) > 0


def test_no_change_is_known_as_well_as_the_images_allow() -> None:
    found = share_change(np.zeros(16), np.arange(16), "OK")
    assert (found.value, found.low) == (0.0, -(found.high or 0.0))
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 16))


@given(st.floats(0.05, 0.95), st.lists(st.floats(-0.2, 0.4), min_size=3, max_size=40))
def test_a_reflected_interval_reaches_as_far_below_as_resamples_lie_above(value: float, offsets: list[float]) -> None:
    drawn = np.array(offsets)
    low, high = fraction_interval(value, drawn, reflected=True)
    plain = fraction_interval(value, drawn)
    below, above = percentile_interval(drawn)
    assert low <= plain[0] <= plain[1] <= high
    assert low <= max(0.0, value - above)
    assert high >= min(1.0, value - below)
