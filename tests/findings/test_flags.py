from __future__ import annotations

from raybench.findings.flags import build_flags, look, top_images
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import MAX_EXCESS
from raybench.results import Threshold, UnitResult


def unit(model: str, threshold: Threshold, seed: int = 0) -> UnitResult:
    return UnitResult(f"{model}-{seed}", "bolt", model, seed, threshold=threshold)


IDS = ["agreed", "disputed", "false alarm", "fine", "missed", "wrong label"]
LABELS = ["unknown", "unknown", "ok", "ok", "ng", "ok"]
SMALL, LARGE = Threshold(2.0, 19, 0.05, 0.05, 1.0), Threshold(200.0, 19, 0.05, 0.05, 100.0)
RESULTS = [unit("a", SMALL), unit("b", LARGE)]
SCORES = {
    "a-0": ImageScores.of(IDS, LABELS, [4.0, 3.0, 2.5, 1.0, 1.0, 5.0]),
    "b-0": ImageScores.of(IDS, LABELS, [400.0, 150.0, 100.0, 100.0, 200.0, 500.0]),
}


def test_who_is_flagged_and_why() -> None:
    found = {flag.image_id: (flag.models, flag.reason) for flag in build_flags(look(RESULTS, SCORES))}
    assert found == {
        "agreed": (("a", "b"), "likely a defect: all of 2 models agree"),
        "disputed": (("a",), "models disagree: 1 of 2 flag it"),
        "missed": ((), "labelled ng, but none of 2 models flags it: check the label, or it is hard to see"),
        "wrong label": (("a", "b"), "labelled ok, but all of 2 models flag it: check the label"),
    }


def test_scores_of_any_scale_are_compared_in_the_models_own_unit() -> None:
    seen = {one.image_id: one for one in look(RESULTS, SCORES)}
    assert seen["agreed"].excess == {"a": 2.0, "b": 2.0}
    assert seen["missed"].excess == {"a": -1.0, "b": 0.0}


def test_the_queue_starts_with_what_most_models_flag() -> None:
    flags = build_flags(look(RESULTS, SCORES))
    assert [flag.image_id for flag in flags] == ["wrong label", "agreed", "disputed", "missed"]


def test_top_images_of_every_line() -> None:
    assert [one.image_id for one in top_images(look(RESULTS, SCORES), 2)] == ["wrong label", "agreed"]


def test_a_model_without_threshold_or_spread_does_no_harm() -> None:
    blind, flat = Threshold(None, 3, 0.05, 0.0), Threshold(1.0, 19, 0.05, 0.05, 1.0)
    scores = {f"{name}-0": SCORES["a-0"] for name in ("blind", "flat")}
    seen = {one.image_id: one for one in look([unit("blind", blind), unit("flat", flat)], scores)}
    assert seen["agreed"].excess == {"flat": MAX_EXCESS}
    assert seen["fine"].excess == {"flat": 0.0}


def test_the_first_seed_speaks_for_a_model() -> None:
    scores = {"a-0": SCORES["a-0"], "a-1": SCORES["b-0"]}
    seen = look([unit("a", SMALL, 1), unit("a", SMALL, 0)], scores)
    assert {one.image_id: one.excess["a"] for one in seen}["agreed"] == 2.0
