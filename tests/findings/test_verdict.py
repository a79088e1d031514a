from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raybench.findings.rows import Row, mean_number, merge_seeds
from raybench.findings.verdict import judge, shown
from raybench.metrics.image import ImageScores, image_quality
from raybench.results import Counts, Failure, Input, Number, Quality, Size, Speed, Threshold, UnitResult

THRESHOLD = Threshold(2.0, 19, 0.05, 0.05, 1.0)
NONE = Number(None, reason="no masks")
FAILURE = Failure("train", "ModelError", "no", "Traceback", 1)


def images(gap: float, noise: float = 0.0, ng: int = 40) -> ImageScores:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(gap, 1, ng)])
    scores += noise * np.random.default_rng(1).normal(size=len(scores))
    ids = [f"{number:03}" for number in range(len(scores))]
    return ImageScores.of(ids, ["ok"] * 40 + ["ng"] * ng, scores.tolist())


def result(model: str, scores: ImageScores, ms: float = 10.0, au_pro: Number = NONE, seed: int = 0) -> UnitResult:
    found = image_quality(scores, THRESHOLD)
    return UnitResult(
        unit_id=f"{model}-{seed}",
        line="bolt",
        model=model,
        seed=seed,
        provenance="imagenet",
        input=Input("native", 64, 128, 300, 600),
        counts=Counts(80, 20, 40, 40, 0),
        threshold=THRESHOLD,
        quality=Quality(
            found.image_auroc, found.image_ap, found.recall, found.false_alarm_rate, NONE, NONE, au_pro, NONE
        ),
        speed=Speed(ms, ms, 2 * ms, 100.0, 8, "cpu", "float32", 1),
        size=Size(5.0, 100),
        train_s=3.0,
    )


def row(*results: UnitResult) -> Row:
    return merge_seeds(results)


def test_a_clear_winner() -> None:
    scores = {"good": images(3.0), "bad": images(0.5)}
    verdict = judge("bolt", [row(result(model, found)) for model, found in scores.items()], scores)
    assert (verdict.run, verdict.tied) == ("good", ())
    assert verdict.conclusions["good"] == "run this one"
    assert verdict.conclusions["bad"].startswith("behind by 0.")
    assert "better than every other" in verdict.sentence


def test_a_tie_is_told_and_the_fastest_is_named() -> None:
    scores = {"slow": images(3.0), "quick": images(3.0, noise=0.05)}
    rows = [row(result("slow", scores["slow"], 50.0)), row(result("quick", scores["quick"], 5.0))]
    verdict = judge("bolt", rows, scores)
    assert (verdict.run, verdict.tied) == ("quick", ("slow",))
    assert "cannot be told apart from slow on these images; it is by far the fastest" in verdict.sentence
    assert verdict.conclusions["slow"] == "tied; 10.0× the time of quick"


def test_a_small_gain_in_time_does_not_decide_a_tie() -> None:
    scores = {"better": images(3.0), "quicker": images(3.0, noise=0.3)}
    rows = [row(result("better", scores["better"], 12.0)), row(result("quicker", scores["quicker"], 10.0))]
    verdict = judge("bolt", rows, scores)
    assert (verdict.run, verdict.tied) == ("better", ("quicker",))
    assert "it is the best guess among the fast ones" in verdict.sentence


def test_heat_maps_decide_among_the_tied() -> None:
    scores = {"sharp": images(3.0), "blurred": images(3.0, noise=0.05)}
    sharp = result("sharp", scores["sharp"], 50.0, Number(0.9, 0.88, 0.92, 40))
    blurred = result("blurred", scores["blurred"], 5.0, Number(0.5, 0.45, 0.55, 40))
    verdict = judge("bolt", [row(sharp), row(blurred)], scores)
    assert (verdict.run, verdict.tied) == ("sharp", ())
    assert verdict.conclusions["blurred"] == "tied on images; heat map less accurate"


def test_overlapping_heat_maps_do_not() -> None:
    scores = {"slow": images(3.0), "quick": images(3.0, noise=0.05)}
    slow = result("slow", scores["slow"], 50.0, Number(0.9, 0.8, 0.95, 40))
    quick = result("quick", scores["quick"], 5.0, Number(0.85, 0.75, 0.9, 40))
    assert judge("bolt", [row(slow), row(quick)], scores).run == "quick"


def test_a_threshold_that_does_not_hold_is_said() -> None:
    """Recall is worth nothing where everything is flagged, because the line has changed since training."""
    shifted = images(3.0)
    shifted = ImageScores(shifted.image_ids, shifted.labels, shifted.scores + 5)
    scores = {"steady": images(3.0), "upset": shifted}
    verdict = judge("bolt", [row(result(model, found)) for model, found in scores.items()], scores)
    assert verdict.conclusions["upset"].endswith("its threshold does not hold here: 100% false alarms")
    assert "threshold" not in verdict.conclusions["steady"]


def test_failures_are_said_and_never_win() -> None:
    scores = {"good": images(3.0)}
    failed = UnitResult("x", "bolt", "broken", 0, failure=FAILURE)
    verdict = judge("bolt", [row(result("good", scores["good"])), row(failed)], scores)
    assert verdict.run == "good"
    assert verdict.conclusions["broken"] == "failed in train: ModelError"


def test_without_ng_images_nothing_is_ranked() -> None:
    scores = {"one": images(0.0, ng=0), "two": images(0.0, ng=0)}
    verdict = judge("bolt", [row(result(model, found)) for model, found in scores.items()], scores)
    assert verdict.run is None
    assert "no NG images" in verdict.sentence
    assert verdict.conclusions["one"] == "quality unknown"


def test_nothing_finished() -> None:
    failed = UnitResult("x", "bolt", "broken", 0, failure=FAILURE)
    verdict = judge("bolt", [row(failed)], {})
    assert (verdict.run, verdict.sentence) == (None, "bolt: no verdict, no model finished.")


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
    assert mean_number([NONE, Number(0.5, 0.4, 0.6, 9)]).value == 0.5
    assert shown(NONE) == "–"
    assert shown(Number(0.9534, 0.9311, 0.9712, 9)) == "0.953 (0.931–0.971)"
