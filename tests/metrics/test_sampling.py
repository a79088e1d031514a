"""Permanent random numbers, and the sample that they make of labels that came back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.metrics.sampling import LEAST_SAMPLE, permanent_numbers, reach


def test_numbers_are_permanent_and_uniform() -> None:
    image_ids = [f"unlabelled/{index:05}.png" for index in range(10_000)]
    numbers = permanent_numbers(image_ids)
    assert (permanent_numbers(image_ids[:10]) == numbers[:10]).all()
    assert np.histogram(numbers, 10, (0, 1))[0].std() < 60  # 30 is expected of a uniform distribution
    assert permanent_numbers(["a"])[0] == 0.3262481085838793  # labels that came back count by it


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_sample_ends_at_the_first_image_that_nobody_has_looked_at(is_seen: list[bool]) -> None:
    numbers = permanent_numbers(map(str, range(len(is_seen))))
    order = np.argsort(numbers)
    expected = next((place for place, index in enumerate(order) if not is_seen[index]), len(is_seen))
    expected = expected if expected >= LEAST_SAMPLE or all(is_seen) else 0
    sample = numbers < reach(numbers, np.array(is_seen))
    assert sorted(np.flatnonzero(sample)) == sorted(order[:expected])


@pytest.mark.parametrize("checks", [5, 10])
def test_shares_of_the_sample_are_right_although_the_queue_chose_others(checks: int) -> None:
    """Each turn labels images with the highest scores, then some of the rest at random; 10 % are NG, of those labelled
    far more."""
    rng, shares, of_all = np.random.default_rng(0), [], []
    for _ in range(1500):
        is_ng = rng.random(100) < 0.1
        scores, numbers, is_seen = rng.normal(2.0 * is_ng), rng.random(100), np.zeros(100, bool)
        for _ in range(2):
            for keys, count in ((-scores, 11), (numbers, checks)):
                left = np.flatnonzero(~is_seen)
                is_seen[left[np.argsort(keys[left])[:count]]] = True
            sample = numbers < reach(numbers, is_seen)
            shares.append((is_ng[sample].mean() - is_ng.mean(), (scores[sample] > 1.5).mean() - (scores > 1.5).mean()))
        of_all.append(is_ng[is_seen].mean() - is_ng.mean())
    means, error = np.mean(shares, axis=0), np.std(shares, axis=0) / np.sqrt(len(of_all))
    assert (np.abs(means) < 3 * error).all(), means
    assert (error < 0.004).all()
    assert np.mean(of_all) > 0.1
