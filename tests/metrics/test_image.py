from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from raybench.errors import IntegrityError
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Threshold
from raybench.metrics.ranking import paired_difference

NO_THRESHOLD = Threshold(None, 3, 0.05, 0.0, None, "3 held-back OK images")


def drawn(ok: int, ng: int, gap: float, seed: int = 0, digits: int = 6) -> ImageScores:
    rng = np.random.default_rng(seed)
    scores = np.round(np.concatenate([rng.normal(0, 1, ok), rng.normal(gap, 1, ng)]), digits)
    return ImageScores.of([f"{n:04}" for n in range(ok + ng)], ["ok"] * ok + ["ng"] * ng, scores.tolist())


@given(ok=st.integers(1, 40), ng=st.integers(1, 40), seed=st.integers(0, 99), digits=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_agrees_with_scikit_learn(ok: int, ng: int, seed: int, digits: int) -> None:
    images = drawn(ok, ng, 1.0, seed, digits)
    found = image_quality(images, NO_THRESHOLD)
    truth = images.labels == "ng"
    assert found.image_auroc.value == pytest.approx(roc_auc_score(truth, images.scores), abs=1e-9)
    assert found.image_ap.value == pytest.approx(average_precision_score(truth, images.scores), abs=1e-9)
    assert found.image_auroc.n == ok + ng


def test_recall_and_false_alarms_are_above_the_threshold_not_at_it() -> None:
    images = ImageScores.of(list("abcdef"), ["ok", "ok", "ng", "ng", "ng", "unknown"], [1.0, 2.0, 2.0, 3.0, 4.0, 9.0])
    found = image_quality(images, Threshold(2.0, 20, 0.05, 0.05, 1.0))
    assert found.recall.value == pytest.approx(2 / 3)
    assert found.false_alarm_rate.value == 0.0
    assert found.false_alarm_rate.high == pytest.approx(0.8418861, abs=1e-6)  # 1 - .025 ** (1 / 2)


def test_undefined_numbers_say_why() -> None:
    only_ok = ImageScores.of(["a"], ["ok"], [1.0])
    found = image_quality(only_ok, Threshold(2.0, 20, 0.05, 0.05, 1.0))
    assert found.image_auroc.reason == "no NG images in the test split"
    assert found.recall.reason == "no NG images in the test split"
    assert "3 held-back" in str(image_quality(drawn(5, 5, 1.0), NO_THRESHOLD).recall.reason)
    assert image_quality(ImageScores.empty(), NO_THRESHOLD).image_ap.value is None


def test_a_perfect_score_is_not_a_certain_one() -> None:
    found = image_quality(drawn(30, 10, 100.0), NO_THRESHOLD).image_auroc
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 10))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.760  # P(N(1, 1) > N(0, 1))
    hits = 0
    for seed in range(100):
        number = image_quality(drawn(60, 60, 1.0, seed), NO_THRESHOLD).image_auroc
        assert number.low is not None
        assert number.high is not None
        hits += number.low <= truth <= number.high
    assert 88 <= hits <= 100


def test_paired_difference_sees_what_single_intervals_cannot() -> None:
    first = drawn(60, 60, 1.0)
    worse = np.where(first.labels == "ng", first.scores - 0.35, first.scores)
    second = replace(first, scores=worse)
    gap = paired_difference(first, second)
    assert gap.low is not None
    assert gap.low > 0
    alone = [image_quality(images, NO_THRESHOLD).image_auroc for images in (first, second)]
    assert alone[1].high is not None
    assert alone[0].low is not None
    assert alone[1].high > alone[0].low
    assert paired_difference(second, first).value == pytest.approx(-(gap.value or 0.0))
    assert paired_difference(first, first).value == 0.0


@given(st.permutations(range(6)), st.integers(0, 6))
@settings(deadline=None)
def test_merging_is_idempotent_and_free_of_order(order: list[int], cut: int) -> None:
    images = drawn(3, 3, 1.0)

    def some(rows: list[int]) -> ImageScores:
        return ImageScores.of(
            *(getattr(images, name)[rows].tolist() for name in ("image_ids", "labels", "scores", "groups"))
        )

    images = replace(images, groups=np.array(["part 1", "part 1", "0002", "0003", "part 2", "part 2"]))
    merged = some(order[:cut]).merge(some(order[cut:])).merge(some(order[:3]))
    assert merged.to_bytes() == images.to_bytes()
    assert ImageScores.from_bytes(merged.to_bytes()).to_bytes() == images.to_bytes()


def test_groups_stay_with_their_images() -> None:
    images = ImageScores.of(list("cab"), ["ok"] * 3, [3.0, 1.0, 2.0], ["part 1", "a", "part 1"])
    assert images.groups.tolist() == ["a", "part 1", "part 1"]
    assert images.only(images.image_ids[1:]).groups.tolist() == ["part 1", "part 1"]
    assert ImageScores.of(list("ba"), ["ok"] * 2, [1.0, 2.0]).groups.tolist() == ["a", "b"]


def test_one_image_has_one_score_and_one_group() -> None:
    first = ImageScores.of(["a"], ["ok"], [1.0])
    for second in (ImageScores.of(["a"], ["ok"], [2.0]), ImageScores.of(["a"], ["ok"], [1.0], ["part 1"])):
        with pytest.raises(IntegrityError, match="two different"):
            first.merge(second)
    with pytest.raises(IntegrityError, match="twice"):
        ImageScores.of(["a", "a"], ["ok", "ok"], [1.0, 1.0])
