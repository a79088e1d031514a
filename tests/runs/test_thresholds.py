from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raybench.errors import InputError
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.thresholds import TEST_OK, judge_by_test, read_threshold, threshold_from_test
from raybench.worker.merge import Partials, merge
from raybench.worker.score import score
from raybench.worker.train import train
from tests.support.made_run import planned, site_of
from tests.support.results import images, result

BUDGET = 0.05


def test_a_changed_line_keeps_its_budget_again() -> None:
    """OK test images lie above the old threshold, NG images above them."""
    old = images(8.0)
    shifted = replace(old, scores=old.scores + 4)
    before = result("m", shifted)
    after = judge_by_test(before, shifted)
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
        judged = judge_by_test(result("m", images(2.0)), found).judged
        rates.append(judged.quality.false_alarm_rate.value or 0.0)
    assert np.mean(rates) == pytest.approx(BUDGET, abs=0.012)


def test_without_ok_test_images_there_is_no_threshold() -> None:
    only_ng = ImageScores.of(["a", "b"], ["ng", "ng"], [1.0, 2.0])
    judged = judge_by_test(result("m", images(2.0)), only_ng).judged
    assert judged.quality.recall.value is None
    assert "no OK images" in (judged.quality.false_alarm_rate.reason or "")


def test_the_threshold_of_a_trained_unit(strips: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    plan = planned(tmp_path / "store", strips, 5)
    unit, manifest, context = plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path / "cache")
    trained = train(unit, manifest, context)
    with pytest.raises(InputError, match="not scored yet"):
        read_threshold(context.run, unit.unit_id, trained, TEST_OK)
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    merged = merge(unit, manifest, context.run, Partials())
    scores = ImageScores.from_bytes(context.run.get_blob(merged.images))
    assert read_threshold(context.run, unit.unit_id, trained, "held_out") == trained.threshold
    assert read_threshold(context.run, unit.unit_id, trained, TEST_OK) == threshold_from_test(
        scores, unit.protocol.false_alarm_budget
    )
