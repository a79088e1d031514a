from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import betabinom

from raybench.analysis.watch import FALSE_ALARMS, LIMIT, YEAR
from raybench.metrics.change import change_evidence, log_evidence, share_evidence
from raybench.metrics.numbers import Threshold


def test_a_stable_year_has_few_alarms() -> None:
    """However often anybody looks, and whatever the distribution: two values, of 6 tests, in 10 years."""
    rng = np.random.default_rng(0)
    years = [draw(YEAR) for _ in range(5) for draw in (rng.standard_normal, rng.standard_cauchy)]
    highest = np.array([change_evidence(values).evidence.max() for values in years])
    assert (highest >= LIMIT).mean() <= FALSE_ALARMS
    assert highest.max() < LIMIT


@pytest.mark.parametrize(("before", "shift", "within"), [(10, 5.0, 12), (30, 5.0, 6), (30, -3.0, 15)])
def test_a_shift_is_found_soon(before: int, shift: float, within: int) -> None:
    rng = np.random.default_rng(1)
    delays, dated = [], []
    for _ in range(20):
        values = rng.standard_normal(before + 30)
        values[before:] += shift
        found = change_evidence(values)
        alarms = np.flatnonzero(found.evidence >= LIMIT)
        assert len(alarms)
        assert alarms[0] >= before
        delays.append(alarms[0] - before + 1)
        low, high = found.spans[alarms[0]]
        dated.append(low <= before <= high)
    assert np.median(delays) <= within
    assert np.mean(dated) >= 0.8


def test_one_odd_day_and_equal_values_are_no_change() -> None:
    values = np.random.default_rng(2).standard_normal(60)
    values[40] = 1e6
    assert change_evidence(values).evidence.max() < LIMIT
    assert not change_evidence(np.ones(60)).evidence.any()


@given(st.lists(st.floats(-100, 100), max_size=30))
@settings(max_examples=20)
def test_only_the_order_of_values_counts(values: list[float]) -> None:
    found = change_evidence(values)
    ranked = change_evidence(np.unique(values, return_inverse=True)[1])
    np.testing.assert_allclose(found.evidence, ranked.evidence)
    np.testing.assert_allclose(found.evidence, change_evidence([-value for value in values]).evidence)


@pytest.mark.parametrize(("a", "b", "n"), [(2.0, 19.0, 10), (95.0, 6.0, 40), (1.0, 5.0, 7)])
def test_the_evidence_has_a_mean_of_one(a: float, b: float, n: int) -> None:
    rare = np.arange(n + 1.0)
    factors = np.exp(log_evidence(rare, n - rare, a, b))
    assert (np.diff(factors) < 0).all()
    assert (betabinom.pmf(rare, n, a, b) * factors).sum() == pytest.approx(1)


def test_a_threshold_that_does_not_hold_is_found_on_either_side() -> None:
    rng, threshold = np.random.default_rng(3), Threshold(1.0, 100, 0.05, 5 / 101)
    images = np.full(80, 50)
    for share, side in ((0.4, "too_many"), (0.0, "too_few")):
        flagged = np.concatenate([rng.binomial(50, 0.045, 20), rng.binomial(50, share, 60)])
        found = share_evidence(flagged, images, threshold)
        evidence = getattr(found, side).evidence
        alarm = np.flatnonzero(evidence >= LIMIT)[0]
        assert 20 <= alarm < 50
        assert abs(getattr(found, side).starts[alarm] - 20) <= 2
    flagged = rng.binomial(50, 0.045 + 0.1, 80)
    assert share_evidence(flagged, images, threshold).too_many.evidence.max() > 1
    assert share_evidence(flagged, images, threshold, defects=0.1).too_many.evidence.max() < LIMIT


def test_no_batches_are_no_evidence() -> None:
    assert change_evidence([]).evidence.shape == (0,)
    assert share_evidence([], [], Threshold(1.0, 20, 0.05, 0.05)).too_many.evidence.shape == (0,)
