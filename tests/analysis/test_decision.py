from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.analysis.decision import Evidence, Verdict, collect_evidence, decide, format_number, over_all
from raybench.analysis.rows import BoardRow, mean_number, merge_seeds
from raybench.config.experiment import VerdictWeights
from raybench.data.geometry import Input
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.runs.records import Failure, UnitResult
from tests.support.results import NONE, images, result

FAILURE = Failure("train", "ModelError", "no", "Traceback", 1)


def row(*results: UnitResult) -> BoardRow:
    return merge_seeds(results)


def verdict_on(
    *results: UnitResult, scores: dict[str, ImageScores], weights: dict[str, float] | None = None
) -> Verdict:
    by_seed = {model: [images] for model, images in scores.items()}
    rows = [row(one) for one in results]
    evidence = collect_evidence("bolt", rows, by_seed, weights or VerdictWeights().model_dump(), 0.05)
    return evidence if isinstance(evidence, Verdict) else decide(evidence)


def test_a_clear_winner() -> None:
    scores = {"good": images(3.0), "near": images(1.6), "bad": images(0.5)}
    verdict = verdict_on(*(result(model, found) for model, found in scores.items()), scores=scores)
    assert (verdict.run, verdict.tied) == ("good", ())
    assert verdict.conclusions["good"] == "run this one"
    assert verdict.conclusions["bad"].startswith("behind by 0.")
    assert verdict.grades == {"good": "best", "near": "good", "bad": "not good"}
    assert verdict.places == {"good": (1, 1), "near": (2, 2), "bad": (3, 3)}
    assert "better than every other" in verdict.sentence


def test_a_tie_is_told_and_what_is_worth_most_is_named() -> None:
    scores = {"slow": images(3.0), "quick": images(3.0, noise=0.05)}
    results = result("slow", scores["slow"], 50.0), result("quick", scores["quick"], 5.0)
    verdict = verdict_on(*results, scores=scores)
    assert (verdict.run, verdict.tied) == ("quick", ("slow",))
    assert "cannot be told apart from slow on these images; its speed speaks for it" in verdict.sentence
    assert verdict.places == {"slow": (1, 2), "quick": (1, 2)}
    assert verdict.grades == {"slow": "best", "quick": "best"}
    assert verdict.conclusions["slow"].startswith("tied; worth 0.")


def test_weights_decide_a_tie() -> None:
    scores = {"sharp": images(3.0), "quick": images(3.0, noise=0.05)}
    sharp = result("sharp", scores["sharp"], 50.0, Estimate(0.95, 0.9, 0.97, 40))
    quick = result("quick", scores["quick"], 5.0, Estimate(0.5, 0.45, 0.55, 40))
    equal = dict.fromkeys(VerdictWeights().model_dump(), 0.0)
    assert verdict_on(sharp, quick, scores=scores, weights=equal | {"heat_map": 1.0}).run == "sharp"
    assert verdict_on(sharp, quick, scores=scores, weights=equal | {"speed": 1.0}).run == "quick"


def test_a_threshold_that_does_not_hold_is_not_good() -> None:
    """Recall is worth nothing where everything is flagged, because the line has changed since training."""
    shifted = images(3.0)
    shifted = replace(shifted, scores=shifted.scores + 5)
    scores = {"steady": images(3.0, noise=0.5), "upset": shifted}
    verdict = verdict_on(*(result(model, found) for model, found in scores.items()), scores=scores)
    assert verdict.conclusions["upset"] == "its threshold does not hold here: 100% false alarms"
    assert (verdict.run, verdict.grades["upset"]) == ("steady", "not good")
    assert "better than every other" not in verdict.sentence
    assert "upset would rank with it, but the threshold does not hold here." in verdict.sentence
    alone = verdict_on(result("upset", shifted), scores={"upset": shifted})
    assert alone.run == "upset"
    assert "But its threshold does not hold here: 100% false alarms." in alone.sentence


def test_the_best_of_a_bad_lot_is_not_good() -> None:
    scores = {"poor": images(0.8, ng=200)}
    verdict = verdict_on(result("poor", scores["poor"]), scores=scores)
    assert (verdict.run, verdict.grades["poor"]) == ("poor", "not good")
    assert verdict.sentence.endswith("None of them is good here.")


def test_too_few_images_tell_nothing() -> None:
    scores = {"one": images(1.0, ng=3), "two": images(0.8, ng=3)}
    verdict = verdict_on(*(result(model, found) for model, found in scores.items()), scores=scores)
    assert set(verdict.grades.values()) == {"not enough images to tell"}
    assert verdict.sentence.startswith("bolt: not enough images to tell (43); the best guess is ")


def test_failures_are_said_and_never_win() -> None:
    scores = {"good": images(3.0)}
    failed = UnitResult("x", "bolt", "broken", 0, failure=FAILURE)
    verdict = verdict_on(result("good", scores["good"]), failed, scores=scores)
    assert verdict.run == "good"
    assert verdict.conclusions["broken"] == "failed in train: ModelError"
    assert verdict.grades["broken"] == "not good"


def test_without_ng_images_nothing_is_ranked() -> None:
    scores = {"one": images(0.0, ng=0), "two": images(0.0, ng=0)}
    verdict = verdict_on(*(result(model, found) for model, found in scores.items()), scores=scores)
    assert verdict.run is None
    assert "no NG images" in verdict.sentence
    assert verdict.conclusions["one"] == "quality unknown"


def test_nothing_finished() -> None:
    verdict = verdict_on(UnitResult("x", "bolt", "broken", 0, failure=FAILURE), scores={})
    assert (verdict.run, verdict.sentence) == (None, "bolt: no verdict, no model finished.")


def test_over_all_lines() -> None:
    def line(name: str, **gaps: float) -> Evidence:
        scores = {model: images(gap) for model, gap in gaps.items()}
        rows = [row(replace(result(model, found), line=name)) for model, found in scores.items()]
        by_seed = {model: [found] for model, found in scores.items()}
        evidence = collect_evidence(name, rows, by_seed, VerdictWeights().model_dump(), 0.05)
        assert isinstance(evidence, Evidence)
        return evidence

    found = over_all([line("a", steady=2.5, moody=3.0), line("b", steady=2.5, moody=0.8, absent=9.0)])
    assert found is not None
    assert (found.line, found.run) == ("all lines", "steady")
    assert found.grades["moody"] != "best"
    assert found.conclusions["absent"] == "not run on every line"
    assert "absent" not in found.grades
    assert over_all([line("a", steady=2.5)]) is None


def test_seeds_are_averaged_and_failed_ones_kept() -> None:
    first, second = result("m", images(3.0)), result("m", images(1.0), seed=1)
    failed = UnitResult("x", "bolt", "m", 2, failure=FAILURE)
    merged = row(first, second, failed)
    assert merged.seeds == (0, 1)
    assert merged.failures == (FAILURE,)
    assert first.quality is not None
    assert second.quality is not None
    assert merged.quality is not None
    values = [one.quality.image_auroc for one in (first, second) if one.quality]
    assert merged.quality.image_auroc.value == pytest.approx(sum(one.value or 0 for one in values) / 2)
    assert merged.quality.image_auroc.low == values[1].low
    assert merged.quality.image_auroc.high == values[0].high


def test_test_minutes_and_aspect() -> None:
    found = row(result("m", images(3.0), ms=30.0))
    assert found.test_minutes == pytest.approx(60e-3 * 80 / 60)
    assert found.non_square.text == "aspect kept: 300×600 as 64×128"
    squashed = replace(result("m", images(3.0)), input=Input("squash", 64, 64, 300, 600))
    assert row(squashed).non_square.text == "squashed: 300×600 as 64×64"
    square = replace(result("m", images(3.0)), input=Input("native", 64, 64, 300, 300))
    assert row(square).non_square.text == "square line, 64×64"


def test_undefined_numbers_stay_undefined() -> None:
    assert mean_number([NONE, NONE]) == NONE
    assert mean_number([NONE, Estimate(0.5, 0.4, 0.6, 9)]).value == 0.5
    assert format_number(NONE) == "–"
    assert format_number(Estimate(0.9534, 0.9311, 0.9712, 9)) == "0.953 (0.931–0.971)"
