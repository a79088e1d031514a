"""Permanent random numbers, and the sample that they make of labels that came back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raybench.metrics.image import ImageScores
from raybench.metrics.sampling import LEAST_SAMPLE, permanent_numbers, represents


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
    assert sorted(np.flatnonzero(represents(numbers, np.array(is_seen)))) == sorted(order[:expected])


def test_shares_of_the_sample_are_right_although_the_queue_chose_others() -> None:
    """Each turn labels images with the highest scores, and some at random; 10 % are NG, of those labelled far more."""
    rng, shares, of_all = np.random.default_rng(0), [], []
    for _ in range(400):
        is_ng = rng.random(300) < 0.1
        scores, numbers, is_seen = rng.normal(2.0 * is_ng), rng.random(300), np.zeros(300, bool)
        for _ in range(3):
            left = np.flatnonzero(~is_seen)
            is_seen[left[np.argsort(-scores[left])[:15]]] = True
            left = np.flatnonzero(~is_seen)
            is_seen[left[np.argsort(numbers[left])[:10]]] = True
        sample = represents(numbers, is_seen)
        shares.append((is_ng[sample].mean() - is_ng.mean(), scores[sample].mean() - scores.mean()))
        of_all.append(is_ng[is_seen].mean() - is_ng.mean())
    error = np.std(shares, axis=0) / np.sqrt(len(shares))
    assert (np.abs(np.mean(shares, axis=0)) < 3 * error).all()
    assert error[0] < 0.003
    assert np.mean(of_all) > 0.1


def test_images_of_a_pool_count_once_they_represent_it() -> None:
    ids = [f"{index:02}" for index in range(20)]
    by_number = [ids[index] for index in np.argsort(permanent_numbers(ids))]
    seen = {*by_number[:6], by_number[15]}
    labels = ["ok" if image_id in seen else "unknown" for image_id in ids]
    scores = ImageScores.of([*ids, "test"], [*labels, "ok"], np.arange(21.0).tolist(), pools=[*["0"] * 20, ""])
    assert scores.of_label("ok").tolist() == [20.0]
    sampled = scores.sampled()
    assert set(sampled.image_ids[sampled.counted("ok")]) == {*by_number[:6], "test"}
    assert sampled.chosen == 1
    assert len(sampled.groups_of("ok")) == 7
    again = ImageScores.from_bytes(sampled.to_bytes())
    assert (again.pools == sampled.pools).all()
    assert (again.only(again.image_ids[:5]).pools == again.pools[:5]).all()
    assert scores.merge(ImageScores.of(["x"], ["ng"], [1.0])).of_label("ng").tolist() == [1.0]


def test_pools_are_sampled_apart_so_that_new_images_change_nothing() -> None:
    ids = [f"{index:02}" for index in range(40)]
    labels = ["ok" if index < 20 else "unknown" for index in range(40)]
    pools = ["0" if index < 20 else "3" for index in range(40)]
    sampled = ImageScores.of(ids, labels, [0.0] * 40, pools=pools).sampled()
    assert len(sampled.of_label("ok")) == 20
