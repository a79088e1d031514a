from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from raybench.errors import IntegrityError
from raybench.metrics.image import ImageScores, Ranked, image_quality
from raybench.metrics.numbers import Threshold

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
    found = image_quality(drawn(30, 10, 100.0), NO_THRESHOLD)
    for number in (found.image_auroc, found.image_ap, found.image_f1_max):
        assert [number.value, number.high] == pytest.approx([1.0, 1.0])
        assert number.low is not None
        assert number.low < 0.9
    assert found.image_ap.low == pytest.approx(0.025 ** (1 / 10))  # as 10 of 10


@given(ok=st.integers(1, 12), ng=st.integers(1, 12), seed=st.integers(0, 999), ties=st.integers(1, 20))
@settings(max_examples=40)
def test_an_interval_holds_its_number(ok: int, ng: int, seed: int, ties: int) -> None:
    scores = np.random.default_rng(seed).integers(0, ties, ok + ng).astype(float)
    images = ImageScores.of([f"{at}" for at in range(ok + ng)], ["ok"] * ok + ["ng"] * ng, scores.tolist())
    found = image_quality(images, Threshold(ties / 2, 20, 0.05, 0.05, 0.0), draws=60)
    for number in vars(found).values():
        assert 0 <= number.low <= number.value + 1e-9
        assert number.value - 1e-9 <= number.high <= 1


@pytest.mark.parametrize(("ok", "ng", "gap"), [(60, 60, 1.0), (40, 10, 2.5), (20, 20, 2.0), (40, 3, 2.0)])
def test_the_intervals_cover_the_truth(ok: int, ng: int, gap: float) -> None:
    auroc = stats.norm.cdf(gap / np.sqrt(2))
    large = drawn(ok * 1000, ng * 1000, gap, 10_000, 12)
    exact = Ranked(large.of_label("ok"), large.of_label("ng")).all(np.ones((1, ok * 1000)), np.ones((1, ng * 1000)))
    ap, f1 = exact[1:, 0]
    hits = np.zeros(3)
    for seed in range(150):
        found = image_quality(drawn(ok, ng, gap, seed), NO_THRESHOLD, draws=200)
        numbers = (found.image_auroc, auroc), (found.image_ap, ap), (found.image_f1_max, f1)
        for at, (number, truth) in enumerate(numbers):
            assert number.low is not None
            assert number.high is not None
            hits[at] += number.low <= truth <= number.high
    assert (hits / 150 >= 0.90).all()


def test_scores_that_are_all_equal_say_nothing() -> None:
    ids = [f"{at:02}" for at in range(30)]
    found = image_quality(ImageScores.of(ids, ["ok"] * 20 + ["ng"] * 10, [1.0] * 30), NO_THRESHOLD)
    assert found.image_ap.value == pytest.approx(1 / 3)
    assert (found.image_ap.low, found.image_ap.high) == (0.0, 1.0)


def test_one_ng_image_says_nothing_of_another() -> None:
    """Resamples vary the OK images alone. The interval of AP from their spread held the truth in half of the cases."""
    ids = [f"{at:02}" for at in range(41)]
    found = image_quality(ImageScores.of(ids, ["ok"] * 40 + ["ng"], [*map(float, range(40)), 35.5]), NO_THRESHOLD)
    for number in (found.image_ap, found.image_f1_max):
        assert (number.low, number.high) == (0.0, 1.0)
    assert found.image_auroc.value == pytest.approx(0.9)
    assert found.image_auroc.low is not None
    assert found.image_auroc.low < 0.5


def test_the_interval_of_ap_covers_the_truth_with_outliers_among_ok_images() -> None:
    rng, repeats, hits = np.random.default_rng(0), 150, 0

    def scores(ok: int, ng: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        dirty = rng.random(ok) < 0.05
        return np.where(dirty, rng.normal(4, 1, ok), rng.normal(0, 1, ok)), rng.normal(2, 1, ng)

    truth = float(Ranked(*scores(100_000, 100_000)).all(np.ones((1, 100_000)), np.ones((1, 100_000)))[1, 0])
    for _ in range(repeats):
        ok, ng = scores(60, 60)
        ids, labels = [f"{at:04}" for at in range(120)], ["ok"] * 60 + ["ng"] * 60
        found = image_quality(ImageScores.of(ids, labels, [*ok, *ng]), NO_THRESHOLD, draws=200).image_ap
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert hits / repeats >= 0.90


def test_images_of_one_part_are_resampled_together() -> None:
    scores = drawn(60, 60, 1.0).scores
    parts = [f"part {at // 5:02}" for at in range(120)]
    scores = np.repeat(scores[::5], 5) + 1e-6 * np.arange(120)  # five photographs that look alike
    labels = ["ok"] * 60 + ["ng"] * 60
    ids = [f"{at:04}" for at in range(120)]
    apart, together = (
        image_quality(ImageScores.of(ids, labels, scores.tolist(), of), Threshold(0.5, 20, 0.05, 0.05, 0.0))
        for of in (None, parts)
    )
    for name in ("image_auroc", "image_ap", "recall", "false_alarm_rate"):
        narrow, wide = getattr(apart, name), getattr(together, name)
        assert narrow.value == wide.value
        assert wide.high - wide.low > 1.4 * (narrow.high - narrow.low)


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


def test_duplicates_share_a_group_and_link_groups() -> None:
    ids = ["a", "b", "c", "d", "e"]
    scores = ImageScores.of(ids, ["ok"] * 5, [1.0] * 5, ["part 1", "part 1", "part 2", "d", "e"])
    linked = scores.with_duplicates([("b", "c", "of another split"), ("d", "e")])
    assert linked.groups.tolist() == ["part 1", "part 1", "part 1", "d", "d"]
    assert linked.groups_of("ok").tolist() == [1, 1, 1, 0, 0]
    assert scores.with_duplicates([("unknown",), ()]) is scores
    chained = scores.with_duplicates([("d", "e"), ("e", "a"), ("c", "d")])
    assert len(set(chained.groups.tolist())) == 1
