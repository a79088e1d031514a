from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raybench.config.experiment import ThresholdChoice
from raybench.errors import InputError
from raybench.metrics.exchangeability import assess_threshold
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import conformal_threshold, excess_of
from raybench.runs.thresholds import UsedThreshold, judge_at, place_threshold, read_threshold
from raybench.worker.merge import Partials, merge
from raybench.worker.score import score
from raybench.worker.train import train
from tests.support.made_run import planned, site_of
from tests.support.results import images, result

BUDGET = 0.05
FROM_TEST = ThresholdChoice.model_validate({"from": "test_ok"})
HELD_OUT = ImageScores.of([f"h{number:02}" for number in range(40)], ["ok"] * 40, np.linspace(0, 3.9, 40).tolist())
TRAINED = conformal_threshold(HELD_OUT.scores, BUDGET)


def test_a_changed_line_keeps_its_budget_again() -> None:
    """OK test images lie above the old threshold, NG images above them."""
    old = images(8.0)
    shifted = replace(old, scores=old.scores + 4)
    before = result("m", shifted)
    after = judge_at(before, FROM_TEST, shifted, HELD_OUT)
    old_quality, quality, threshold = before.judged.quality, after.judged.quality, after.trained.threshold
    assert (old_quality.false_alarm_rate.value or 0.0) > 0.9
    assert (quality.false_alarm_rate.value or 0.0) <= 0.1
    assert quality.recall.value == 1.0
    ok = shifted.of_label("ok")
    assert threshold.value == conformal_threshold(ok, BUDGET).value
    assert threshold.note.startswith("on 40 OK test images")
    assert quality.image_auroc == old_quality.image_auroc


def test_the_false_alarm_rate_is_honest() -> None:
    """On average over lines it is near the budget, though each threshold is set on the very images that are judged."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(100):
        scores = rng.normal(size=50)
        found = ImageScores.of([f"{number:02}" for number in range(50)], ["ok"] * 50, scores.tolist())
        judged = judge_at(result("m", images(2.0)), FROM_TEST, found, HELD_OUT).judged
        rates.append(judged.quality.false_alarm_rate.value or 0.0)
    assert np.mean(rates) == pytest.approx(BUDGET, abs=0.012)


def test_without_ok_test_images_there_is_no_threshold() -> None:
    only_ng = ImageScores.of(["a", "b"], ["ng", "ng"], [1.0, 2.0])
    judged = judge_at(result("m", images(2.0)), FROM_TEST, only_ng, HELD_OUT).judged
    assert judged.quality.recall.value is None
    assert "no OK images" in (judged.quality.false_alarm_rate.reason or "")


def test_the_threshold_of_a_trained_unit(strips: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    plan = planned(tmp_path / "store", strips, 5)
    unit, manifest, context = plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path / "cache")
    trained = train(unit, manifest, context)
    with pytest.raises(InputError, match="not scored yet"):
        read_threshold(context.run, unit.unit_id, trained, FROM_TEST)
    with pytest.raises(InputError, match="not scored yet"):
        read_threshold(context.run, unit.unit_id, trained, ThresholdChoice(recall=0.9))
    assert read_threshold(context.run, unit.unit_id, trained, ThresholdChoice()) == UsedThreshold(trained.threshold)
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    merged = merge(unit, manifest, context.run, Partials())
    scores = ImageScores.from_bytes(context.run.get_blob(merged.images))
    rate = merged.quality.false_alarm_rate
    used = read_threshold(context.run, unit.unit_id, trained, ThresholdChoice())
    assert (used.threshold, used.alarms) == (trained.threshold, rate)
    held_out = ImageScores.from_bytes(context.run.get_blob(trained.held_out))
    assert used.test == assess_threshold(held_out, scores, trained.threshold) is not None
    assert read_threshold(context.run, unit.unit_id, trained, ThresholdChoice(recall=0.9)).test is None
    of_test = conformal_threshold(scores.of_label("ok"), unit.protocol.false_alarm_budget)
    of_tests = read_threshold(context.run, unit.unit_id, trained, FROM_TEST)
    assert (of_tests.threshold.value, of_tests.alarms, of_tests.test) == (of_test.value, None, None)


def test_a_rate_sets_the_threshold_anew_on_what_was_held_back() -> None:
    placed = place_threshold(TRAINED, ThresholdChoice(promised=0.2), images(2.0), HELD_OUT)
    assert placed == conformal_threshold(HELD_OUT.scores, 0.2)
    seen = images(2.0)
    placed = place_threshold(
        TRAINED, ThresholdChoice.model_validate({"from": "test_ok", "promised": 0.2}), seen, HELD_OUT
    )
    assert placed.value == conformal_threshold(seen.of_label("ok"), 0.2).value


@pytest.mark.parametrize("excess", [-0.5, 0.0, 0.7, 3.0])
def test_a_moved_threshold_has_the_excess_that_was_asked_for(excess: float) -> None:
    placed = place_threshold(TRAINED, ThresholdChoice(excess=excess), images(2.0), HELD_OUT)
    assert excess_of(placed.value or 0.0, TRAINED) == pytest.approx(excess)
    assert (placed.promised, placed.typical) == (1.0, TRAINED.typical)
    assert placed.note == f"moved to an excess of {excess:g}, where it promises nothing"


@pytest.mark.parametrize("recall", [0.01, 0.5, 0.9, 1.0])
def test_a_threshold_moved_to_a_recall_reaches_it_and_no_more(recall: float) -> None:
    seen = images(2.0)
    judged = judge_at(result("m", seen), ThresholdChoice(recall=recall), seen, HELD_OUT)
    found = judged.judged.quality
    ng = seen.of_label("ng")
    assert found.recall.value == pytest.approx(np.ceil(recall * len(ng) - 1e-9) / len(ng))
    assert found.false_alarm_rate.value == (seen.of_label("ok") > (judged.trained.threshold.value or 0.0)).mean()
    assert found.image_auroc == result("m", seen).judged.quality.image_auroc


def test_a_threshold_moved_to_a_recall_lies_apart_from_all_scores() -> None:
    seen = images(2.0)
    value = place_threshold(TRAINED, ThresholdChoice(recall=0.9), seen, HELD_OUT).value or 0.0
    above, below = seen.scores[seen.scores > value].min(), seen.scores[seen.scores < value].max()
    assert value == pytest.approx((above + below) / 2)


def test_what_cannot_be_moved_stays_and_says_so() -> None:
    without = Threshold(None, 0, BUDGET, 0.0)
    assert place_threshold(without, ThresholdChoice(excess=1.0), images(2.0), HELD_OUT) == without
    only_ok = images(2.0).only(images(2.0).image_ids[images(2.0).labels == "ok"])
    stayed = place_threshold(TRAINED, ThresholdChoice(recall=0.9), only_ok, HELD_OUT)
    assert stayed.value == TRAINED.value
    assert stayed.note.endswith("not moved to a recall of 90%: no NG images in the test split")
