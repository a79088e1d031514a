from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.metrics.threshold import conformal_threshold, false_alarm_interval


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


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        conformal_threshold(np.array([1.0, np.nan]), 0.05)
