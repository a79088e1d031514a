from __future__ import annotations

import math

import pytest

from raybench.analysis.comparison import Standing
from raybench.analysis.flags import (
    NEAR,
    VOTES_WITHIN,
    Flag,
    ScoredImage,
    build_flags,
    collect_scores,
    soft_vote,
    top_images,
    voting_models,
)
from raybench.analysis.verdict import BEST, NOT_ADMISSIBLE, NOT_GOOD_ENOUGH, NOT_TOLD_APART, WORSE, Verdict
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.threshold import MAX_EXCESS
from raybench.runs.records import UnitResult
from tests.support.results import made_unit


def unit(model: str, threshold: Threshold, seed: int = 0) -> UnitResult:
    return made_unit(f"{model}-{seed}", "bolt", model, seed, threshold=threshold)


IDS = ["agreed", "disputed", "false alarm", "fine", "missed", "unsure", "wrong label"]
LABELS = ["unknown", "unknown", "ok", "ok", "ng", "unknown", "ok"]
SMALL, LARGE = Threshold(2.0, 19, 0.05, 0.05, 1.0), Threshold(200.0, 19, 0.05, 0.05, 100.0)
RESULTS = [unit("a", SMALL), unit("b", LARGE)]
SCORES = {
    "a-0": ImageScores.of(IDS, LABELS, [4.0, 3.0, 2.5, 1.0, 1.0, 1.9, 5.0]),
    "b-0": ImageScores.of(IDS, LABELS, [400.0, 150.0, 100.0, 100.0, 200.0, 190.0, 500.0]),
}


def flags_of(label: str, excess: dict[str, float], bad: str = "") -> list[Flag]:
    return build_flags([ScoredImage("bolt", "it", label, excess)], {"it": bad} if bad else {})


def test_who_is_flagged_and_why() -> None:
    found = {flag.image_id: (flag.models, flag.reason) for flag in build_flags(collect_scores(RESULTS, SCORES))}
    assert found == {
        "agreed": (("a", "b"), "likely a defect: all of 2 models agree"),
        "disputed": (("a",), "models disagree: 1 of 2 flag it"),
        "missed": ((), "labelled NG, but none of 2 models flags it: check the label, or it is hard to see"),
        "unsure": ((), "uncertain: below the threshold by an excess of 0.10"),
        "wrong label": (("a", "b"), "labelled OK, but all of 2 models flag it: check the label"),
    }


@pytest.mark.parametrize(
    ("excess", "kinds"),
    [
        ({"a": 2.0, "b": 1.0, "c": 3.0}, ("likely defect",)),
        ({"a": 2.0, "b": 1.0, "c": -1.0}, ("likely defect", "models disagree")),
        ({"a": 2.0, "b": -0.5, "c": -1.0}, ("models disagree",)),
        ({"a": 0.1, "b": 0.2}, ("likely defect", "near threshold")),
        ({"a": 0.1, "b": -0.1}, ("near threshold",)),
        ({"a": -0.2}, ("near threshold",)),
        ({"a": 0.9}, ("likely defect",)),
    ],
)
def test_one_image_may_have_several_reasons(excess: dict[str, float], kinds: tuple[str, ...]) -> None:
    (flag,) = flags_of("unknown", excess)
    assert (flag.kind, flag.kinds) == (kinds[0], kinds)
    assert flag.reason.count(";") == len(kinds) - 1


def test_what_is_clearly_below_is_left_alone() -> None:
    assert flags_of("unknown", {"a": -NEAR - 0.01, "b": -0.5}) == []
    assert flags_of("ok", {"a": 1.0, "b": -1.0}) == []
    assert flags_of("ng", {"a": 1.0, "b": -1.0}) == []


def test_one_model_alone_needs_to_be_sure_to_question_a_label() -> None:
    assert flags_of("ok", {"a": 0.5}) == []
    assert [flag.kind for flag in flags_of("ok", {"a": 1.5})] == ["check label"]


def test_a_bad_picture_comes_first_and_counts_little() -> None:
    good, bad = (flags_of("unknown", {"a": 2.0}, fault)[0] for fault in ("", "blurred"))
    assert bad.kinds == ("bad image", "likely defect")
    assert bad.reason == "a bad picture (blurred): what models say of it is worth little; " + good.reason
    assert 0 < bad.usefulness < 0.5 * good.usefulness
    assert [flag.kinds for flag in flags_of("ok", {"a": -1.0}, "dark")] == [("bad image",)]


def test_usefulness_grows_with_every_model_s_excess() -> None:
    values = [soft_vote([one, 0.0]) for one in (-1e9, -1.0, -0.1, 0.0, 0.1, 1.0, 10.0)]
    assert values == sorted(set(values))
    assert soft_vote([0.0]) == 0.5
    assert all(0 < value <= 1 for value in values)


def test_scores_of_any_scale_are_compared_in_the_models_own_unit() -> None:
    seen = {one.image_id: one for one in collect_scores(RESULTS, SCORES)}
    assert seen["agreed"].excess == pytest.approx({"a": math.log2(3.0), "b": math.log2(3.0)})
    assert seen["missed"].excess == {"a": -1.0, "b": 0.0}


def test_only_the_best_models_count() -> None:
    seen = {one.image_id: one for one in collect_scores(RESULTS, SCORES, {"bolt": ("b",)})}
    disputed = seen["disputed"]
    assert (disputed.counted, disputed.flagged_by, disputed.score) == ({"b": -0.5}, (), -0.5)
    assert disputed.excess == {"a": 1.0, "b": -0.5}
    assert "disputed" not in {flag.image_id for flag in build_flags(list(seen.values()))}
    assert ScoredImage("bolt", "it", "ok", {"a": 1.0}, ("without a threshold",)).counted == {"a": 1.0}


def standing(loss: float) -> Standing:
    return Standing(0.5, 0.5, loss, Estimate(loss, loss, loss), (1, 2))


def test_who_counts_is_what_the_verdict_says() -> None:
    grades = {"first": BEST, "second": NOT_TOLD_APART, "near": WORSE, "far": WORSE, "poor": NOT_GOOD_ENOUGH}
    standings = {model: standing(loss) for model, loss in zip(grades, (0.0, 0.01, VOTES_WITHIN, 0.3, 0.0), strict=True)}
    found = Verdict("bolt", "first", ("second",), "", grades | {"refused": NOT_ADMISSIBLE}, standings=standings)
    assert voting_models(found) == ("first", "near", "second")
    poor = dict.fromkeys(("last", "x"), NOT_GOOD_ENOUGH)
    assert voting_models(Verdict("bolt", "last", (), "", poor, standings={"x": standing(0.0)})) == ("last",)
    assert voting_models(Verdict("bolt", None, (), "no labels")) == ()


def test_top_images_of_every_line() -> None:
    assert [one.image_id for one in top_images(collect_scores(RESULTS, SCORES), 2)] == ["wrong label", "agreed"]


def test_a_model_without_threshold_or_spread_does_no_harm() -> None:
    blind, flat = Threshold(None, 3, 0.05, 0.0), Threshold(1.0, 19, 0.05, 0.05, 1.0)
    scores = {f"{name}-0": SCORES["a-0"] for name in ("blind", "flat")}
    seen = {one.image_id: one for one in collect_scores([unit("blind", blind), unit("flat", flat)], scores)}
    assert seen["agreed"].excess == {"flat": MAX_EXCESS}
    assert seen["fine"].excess == {"flat": 0.0}


def test_the_first_seed_speaks_for_a_model() -> None:
    scores = {"a-0": SCORES["a-0"], "a-1": SCORES["b-0"]}
    seen = collect_scores([unit("a", SMALL, 1), unit("a", SMALL, 0)], scores)
    assert {one.image_id: one.excess["a"] for one in seen}["agreed"] == pytest.approx(math.log2(3.0))
