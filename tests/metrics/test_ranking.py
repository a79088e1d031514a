from __future__ import annotations

import numpy as np
import pytest

from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import Ranking, mean_ranking, rank


def images(gap: float, seed: int = 0, count: int = 60) -> ImageScores:
    """Images whose difficulty is common to all models; `gap` is how well a model tells NG from OK."""
    common = np.random.default_rng(0).normal(size=2 * count)
    own = np.random.default_rng(seed + 1).normal(size=2 * count)
    scores = common + 0.3 * own + np.repeat([0, gap], count)
    labels = ["ok"] * count + ["ng"] * count
    return ImageScores.of([f"{at:03}" for at in range(2 * count)], labels, scores.tolist())


def ranked(**gaps: float) -> Ranking:
    found = rank({model: [images(gap, at)] for at, (model, gap) in enumerate(gaps.items())})
    assert isinstance(found, Ranking)
    return found


def test_places_and_ties() -> None:
    found = ranked(third=0.5, first=3.0, second=2.95)
    assert found.models == ("first", "second", "third")
    assert found.tied == ("first", "second")
    assert [found.places(model) for model in found.models] == [(1, 2), (1, 2), (3, 3)]
    assert found.is_better("second", "third")
    assert not found.is_better("first", "first")


def test_a_model_s_value_is_the_mean_over_its_seeds() -> None:
    seeds = [images(2.0, 0), images(2.0, 1)]
    both = rank({"m": seeds})
    each = [rank({"m": [one]}) for one in seeds]
    assert isinstance(both, Ranking)
    values = [one.value("m").value or 0.0 for one in each if isinstance(one, Ranking)]
    assert both.value("m").value == pytest.approx(np.mean(values))


def test_images_that_one_model_has_not_scored_do_not_count() -> None:
    whole, part = images(2.0), images(2.0, 1)
    part = part.only(part.image_ids[10:])
    found = rank({"whole": [whole], "part": [part]})
    assert isinstance(found, Ranking)
    assert found.images == len(part.image_ids)


def test_without_a_class_there_is_no_ranking() -> None:
    only_ok = images(2.0)
    only_ok = only_ok.only(only_ok.image_ids[only_ok.labels == "ok"])
    found = rank({"m": [only_ok]})
    assert isinstance(found, Estimate)
    assert found.reason == "no NG images in the test split"


def test_over_lines_the_interval_is_that_of_the_mean() -> None:
    lines = [rank({"a": [images(1.5, seed)], "b": [images(1.0, seed)]}, name=str(seed)) for seed in range(4)]
    found = mean_ranking([line for line in lines if isinstance(line, Ranking)])
    assert found is not None
    one = lines[0]
    assert isinstance(one, Ranking)
    width = [(number.high or 0) - (number.low or 0) for number in (found.value("a"), one.value("a"))]
    assert width[0] == pytest.approx(width[1] / 2, rel=0.3)  # a mean of four
    assert mean_ranking([]) is None
    assert mean_ranking([ranked(a=1.0), ranked(b=1.0)]) is None


def test_the_tie_covers_the_truth_about_as_often_as_it_says() -> None:
    """Two models that are equally good must be tied in about 95 % of draws of images."""
    rng = np.random.default_rng(0)
    tied = 0
    for _ in range(120):
        common = rng.normal(size=80) + np.repeat([0, 1], 40)
        labels = ["ok"] * 40 + ["ng"] * 40
        ids = [f"{at:02}" for at in range(80)]
        pair = [ImageScores.of(ids, labels, (common + rng.normal(size=80)).tolist()) for _ in "ab"]
        found = rank({"a": [pair[0]], "b": [pair[1]]}, draws=400)
        assert isinstance(found, Ranking)
        tied += len(found.tied) == 2
    assert 0.88 <= tied / 120 <= 0.99
