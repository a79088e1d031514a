from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from raybench.analysis.label_noise import FEWEST, HeldOutScores, is_outlier, suspected_label_noise
from raybench.metrics.image import Floats, ImageScores


def held_back(**scores: Floats) -> HeldOutScores:
    found = {
        model: ImageScores.of([f"{at:03}" for at in range(len(values))], ["ok"] * len(values), values.tolist())
        for model, values in scores.items()
    }
    return HeldOutScores("bolt", found, 0.05)


def clean(seed: int, count: int = 24) -> Floats:
    return np.random.default_rng(seed).gamma(4.0, size=count)


@pytest.mark.parametrize(
    ("draw", "most"),
    [
        (lambda rng: rng.normal(size=24), 0.001),
        (lambda rng: rng.exponential(size=24), 0.012),
        (lambda rng: rng.lognormal(0, 0.5, size=24), 0.01),
        (lambda rng: rng.gamma(4.0, size=24), 0.004),
    ],
)
def test_clean_images_are_rarely_far_out(draw: Callable[[np.random.Generator], Floats], most: float) -> None:
    rng = np.random.default_rng(0)
    assert np.mean([is_outlier(draw(rng)).mean() for _ in range(2000)]) < most


@pytest.mark.parametrize("dirt", [1, 2, 4])
def test_dirty_images_do_not_hide_behind_each_other(dirt: int) -> None:
    scores = clean(1)
    scores[:dirt] = 40.0 + np.arange(dirt)
    found = suspected_label_noise(held_back(a=scores, b=10 * scores - 3))
    assert [flag.image_id for flag in found] == [f"{at:03}" for at in range(dirt)]
    for flag in found:
        assert (flag.kind, flag.label, flag.models, flag.of) == ("suspicious training image", "ok", ("a", "b"), 2)
        assert flag.score > 1
        assert flag.usefulness > 0.8
    assert found[0].reason == (
        "an OK training image, but 2 of 2 models, not trained on it, put it far above the other 23 held back"
    )


def test_the_excess_does_not_depend_on_the_model_s_scale_or_on_other_dirt() -> None:
    scores = clean(2)
    scores[0] = 30.0
    alone = suspected_label_noise(held_back(a=scores))
    assert suspected_label_noise(held_back(a=1000 * scores + 7))[0].score == pytest.approx(alone[0].score)
    scores[1] = 60.0
    assert suspected_label_noise(held_back(a=scores))[0].score == pytest.approx(alone[0].score, rel=0.2)


def test_one_model_of_two_is_not_enough() -> None:
    scores = clean(3)
    upset = scores.copy()
    upset[0] = 50.0
    assert suspected_label_noise(held_back(a=scores, b=upset)) == []


def test_a_bad_picture_is_said_to_be_one() -> None:
    scores = clean(4)
    scores[0] = 50.0
    flag = suspected_label_noise(held_back(a=scores), {"000": "over-exposed"})[0]
    assert flag.kinds == ("bad image", "suspicious training image")
    assert "over-exposed" in flag.reason
    assert flag.usefulness < 0.5


def test_too_few_images_or_no_spread_tell_nothing() -> None:
    few = np.arange(FEWEST - 1.0)
    few[-1] = 1000.0
    assert suspected_label_noise(held_back(a=few)) == []
    flat = np.ones(24)
    flat[-1] = 2.0
    assert suspected_label_noise(held_back(a=flat)) == []
    assert suspected_label_noise(held_back()) == []
