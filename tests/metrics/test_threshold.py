from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import asdict
from fractions import Fraction
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import (
    MAX_EXCESS,
    conformal_quantiles,
    conformal_threshold,
    cross_fitted_alarms,
    excess_of,
    false_alarm_interval,
)

Floats = npt.NDArray[np.float64]


@given(n=st.integers(1, 300), budget=st.sampled_from([0.01, 0.05, 0.1, 0.2]), seed=st.integers(0, 9))
def test_the_rank_keeps_the_budget(n: int, budget: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=n)
    found = conformal_threshold(scores, budget)
    assert found.value is not None
    above = int((scores > found.value).sum())
    assert found.promised == pytest.approx((above + 1) / (n + 1))
    enough = n >= round(1 / budget) - 1
    assert (found.promised <= budget + 1e-9) == enough
    assert above == (math.floor((n + 1) * budget + 1e-9) - 1 if enough else 0)


def test_the_mean_false_alarm_rate_is_what_is_promised() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        value = conformal_threshold(rng.normal(size=59), 0.05).value
        assert value is not None
        rates.append((rng.normal(size=2000) > value).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.004)
    low, high = false_alarm_interval(59, 57)
    assert np.mean([low <= rate <= high for rate in rates]) == pytest.approx(0.95, abs=0.04)


def test_too_few_images_are_said_and_promise_what_they_can() -> None:
    found = conformal_threshold(np.arange(5.0), 0.05)
    assert (found.value, found.typical) == (4.0, 2.0)
    assert found.promised == pytest.approx(1 / 6)
    assert "needs at least 19 images, these can promise 0.167" in found.note
    nothing = conformal_threshold(np.empty(0), 0.05)
    assert (nothing.value, nothing.typical, nothing.note) == (None, None, "no held-back OK images")


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5]))
def test_groups_of_one_image_change_nothing(scores: list[int], budget: float) -> None:
    values = np.array(scores, np.float64)
    alone = conformal_threshold(values, budget)
    assert conformal_threshold(values, budget, [f"part {at}" for at in range(len(scores))]) == alone
    assert alone.groups == alone.n == len(scores)
    rank = min(math.ceil((len(scores) + 1) * (1 - budget) - 1e-9), len(scores))
    assert (alone.value, alone.promised) == (sorted(scores)[rank - 1], (len(scores) + 1 - rank) / (len(scores) + 1))


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 7)), min_size=1, max_size=60, unique_by=lambda pair: pair[0]),
    st.sampled_from(["0.05", "0.1", "0.2", "0.25", "0.5"]),
    st.randoms(use_true_random=False),
)
def test_the_quantile_of_groups_is_the_one_defined(drawn: list[tuple[int, int]], budget: str, order: Random) -> None:
    groups = Counter(group for _, group in drawn)
    weights = {score: Fraction(1, (len(groups) + 1) * groups[group]) for score, group in drawn}
    reached = [at for at in sorted(weights) if sum(w for s, w in weights.items() if s <= at) >= 1 - Fraction(budget)]
    value = reached[0] if reached else max(weights)
    found = [
        conformal_threshold(
            np.array([s for s, _ in rows], float), float(budget), [f"part {group}" for _, group in rows]
        )
        for rows in (drawn, order.sample(drawn, len(drawn)))
    ]
    assert found[0] == found[1]
    assert (found[0].value, found[0].groups, found[0].n) == (value, len(groups), len(drawn))
    above = 1 - sum(w for s, w in weights.items() if s <= value)
    alike = len(set(groups.values())) == 1
    assert found[0].promised == pytest.approx(float(above if alike else max(above, Fraction(budget))))


def test_equal_scores_of_large_and_small_groups_promise_the_same_in_any_order() -> None:
    groups = ["a", "a", "a", "b", "c", "c"]
    found = [
        conformal_threshold(np.ones(6), 0.5, [groups[at] for at in order]) for order in itertools.permutations(range(6))
    ]
    assert set(found) == {found[0]}
    assert found[0].value == 1.0


def drawn_groups(rng: np.random.Generator, count: int, sizes: str) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Draw scores of OK images whose groups differ far more than the images of a group, and the group of each."""
    effects = rng.normal(size=count)
    mean = {"alike": np.full(count, 4.0), "large groups score low": np.exp(-effects), "high": np.exp(effects)}[sizes]
    groups = np.repeat(np.arange(count), 1 + rng.poisson(mean))
    return effects[groups] + rng.normal(0, 0.3, len(groups)), groups


@pytest.mark.parametrize("sizes", ["alike", "large groups score low", "high"])
def test_new_groups_keep_the_budget_and_images_alone_would_not(sizes: str) -> None:
    """Draw 800 lines of 19 held-back groups, and the false-alarm rate of each on 100 new groups."""
    rng, budget = np.random.default_rng(0), 0.05
    with_groups, without, promised = list[float](), list[float](), list[float]()
    for _ in range(800):
        scores, groups = drawn_groups(rng, 19, sizes)
        new, of = drawn_groups(rng, 100, sizes)
        found, ignoring = (conformal_threshold(scores, budget, each) for each in (groups.astype(str), None))
        for threshold, rates in ((found, with_groups), (ignoring, without)):
            assert threshold.value is not None
            rates.append(float(np.mean(np.bincount(of, new > threshold.value) / np.bincount(of))))
        promised.append(found.promised)
    assert np.mean(with_groups) <= np.mean(promised) <= budget + 1e-9
    if sizes != "high":
        error = np.std(without) / math.sqrt(len(without))
        assert np.mean(without) > budget + 3 * error


def test_groups_are_counted_in_the_note() -> None:
    scores, groups = np.arange(40.0), [f"part {at // 5}" for at in range(40)]
    found = conformal_threshold(scores, 0.2, groups)
    assert (found.n, found.groups, found.note) == (40, 8, "on 40 held-back OK images of 8 groups")
    assert found.value == 35.0
    assert found.promised == pytest.approx(0.2)
    few = conformal_threshold(scores, 0.05, groups)
    assert few.value == 39.0
    assert few.promised == pytest.approx(1 / 9)
    assert few.note == (
        "on 40 held-back OK images of 8 groups; a budget of 0.05 needs at least 19 groups, these can promise 0.111"
    )
    with pytest.raises(ValueError, match="40 scores and 39 groups"):
        conformal_threshold(scores, 0.05, groups[1:])


def test_a_record_without_groups_has_as_many_as_images() -> None:
    stored = asdict(conformal_threshold(np.arange(5.0), 0.2))
    del stored["groups"]
    assert TypeAdapter(Threshold).validate_python(stored).groups == 5


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        conformal_threshold(np.array([1.0, np.nan]), 0.05)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12), budget=st.sampled_from([0.05, 0.2, 0.4]))
def test_the_quantile_of_all_images_is_the_threshold(sizes: list[int], budget: float) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    scores = np.random.default_rng(len(groups)).normal(size=len(groups))
    found = conformal_quantiles(scores, groups, np.ones((1, len(groups))), budget)
    assert found == [conformal_threshold(scores, budget, groups.astype(str)).value]


def test_weights_of_a_resample_move_the_quantile() -> None:
    scores, groups = np.arange(20.0), np.arange(20)
    high, low = np.where(scores >= 10, 2.0, 0.0), np.where(scores < 10, 2.0, 0.0)
    found = conformal_quantiles(scores, groups, np.stack([high, low]), 0.2)
    assert found[0] > 15
    assert found[1] < 10


def test_alarms_are_cross_fitted_by_whole_groups() -> None:
    """Photographs of a part are never judged by a threshold that the part has set."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 3)
    scores = rng.normal(size=60)
    scores[groups == 7] += 100
    assert cross_fitted_alarms(scores, groups, 0.1)[groups == 7].all()
    assert cross_fitted_alarms(scores[:3], groups[:3], 0.1).all()  # one group alone can say nothing of itself
    assert cross_fitted_alarms(scores[:0], groups[:0], 0.1).tolist() == []


FLAT = Threshold(1.0, 19, 0.05, 0.05, 0.0)


@pytest.mark.parametrize(
    ("score", "excess"), [(-1.0, -2.0), (0.0, -1.0), (0.5, -0.5), (1.0, 0.0), (2.0, 1.0), (4.0, 2.0)]
)
def test_excess_is_linear_below_the_threshold_and_a_logarithm_above(score: float, excess: float) -> None:
    assert excess_of(score, FLAT) == excess
    assert excess_of(1e300, FLAT) == MAX_EXCESS


@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    value=st.floats(-1e3, 1e3),
    unit=st.floats(1e-6, 1e3),
)
def test_excess_keeps_the_order_of_scores_and_is_above_0_for_those_that_are_flagged(
    scores: list[float], value: float, unit: float
) -> None:
    threshold = Threshold(value, 19, 0.05, 0.05, value - unit)
    scores = sorted([*scores, value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)])
    found = [excess_of(score, threshold) for score in scores]
    assert found == sorted(found)
    assert [excess > 0 for excess in found] == [score > value for score in scores]


def test_excess_is_less_unlike_between_tails_than_the_score_itself() -> None:
    """Of the image that one OK image in 1,000 exceeds; linear in the score it would be 0.9, 1.7 and 4.0."""
    rare = {}
    for name, scores in {"normal": stats.norm, "exponential": stats.expon, "lognormal": stats.lognorm(1.0)}.items():
        threshold = Threshold(scores.ppf(0.95), 999, 0.05, 0.05, scores.ppf(0.5))
        rare[name] = round(excess_of(scores.ppf(0.999), threshold), 1)
    assert rare == {"normal": 0.9, "exponential": 1.4, "lognormal": 2.3}
