from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from raybench.metrics.numbers import Estimate
from raybench.metrics.paired import share_change


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
