"""Findings of a run on a line of which few images are labelled at first."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from raybench.analysis.findings import analyze
from raybench.config.experiment import Costs, Override, ThresholdChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.shards import read_rows
from raybench.metrics.image import share_above
from raybench.metrics.sampling import permanent_numbers
from raybench.report.annotations.read import import_labels
from raybench.runs.records import QualityRecord
from raybench.runs.run import RunStore
from tests.support.made_run import finish, planned, site_of

COSTS = Costs(missed_defect=200, false_alarm=2, defect_rate=0.01)


@pytest.fixture
def images(strips: Path, tmp_path: Path) -> Path:
    """Two OK and two NG test images with masks; the other eight have no label."""
    folder = tmp_path / "images"
    shutil.copytree(strips, folder)
    rows = [(path.relative_to(folder).as_posix(), "train", "ok", "") for path in sorted(folder.glob("train/*/*.png"))]
    seen: Counter[str] = Counter()
    for path in sorted(folder.glob("test/*/*.png")):
        name, kind = path.relative_to(folder).as_posix(), path.parent.name
        label = "ok" if kind == "good" else "ng"
        seen[label] += 1
        mask = f"ground_truth/{kind}/{path.stem}_mask.png" if label == "ng" else ""
        rows.append((name, "test", label, mask) if seen[label] <= 2 else (name, "unlabelled", "", ""))
    with (folder / "images.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "split", "label", "mask"), *rows])
    return folder


def judged(plan: Plan, cache: Path) -> tuple[QualityRecord, tuple[str, ...]]:
    """What is said of the run's unit, and the notes of the verdict."""
    unit = plan.units[0]
    finish(unit, plan.manifests["strip"], site_of(plan, cache))
    run = RunStore.of(plan)
    quality = run.read(unit.unit_id, "quality", QualityRecord)
    assert quality is not None
    return quality, analyze(plan, run, "2026-11-28").board.verdicts[0].notes


def test_labels_of_chosen_images_change_no_number_and_are_told(images: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", images, 5)
    before, notes = judged(plan, tmp_path)
    assert (before.test.ok, before.test.ng, before.test.masks, before.test.chosen) == (2, 2, 2, 0)
    assert not any("not count" in note for note in notes)
    shards = plan.manifests["strip"].shards_of("unlabelled")
    pool = [row.image_id for shard in shards for row in read_rows(plan.lines_of("strip"), shard, images=False)]
    last = pool[int(np.argmax(permanent_numbers(pool)))]
    decisions = tmp_path / "decisions.csv"
    decisions.write_text(f"image_id,decision\n{last},ng\n")
    assert len(import_labels(plan.line("strip"), decisions).changes) == 1
    chosen, notes = judged(make_plan(plan.experiment), tmp_path)
    assert chosen.quality == before.quality
    assert chosen.regions == before.regions
    assert (chosen.test.ok, chosen.test.ng, chosen.test.masks, chosen.test.chosen) == (2, 2, 2, 1)
    assert any(note.startswith("1 labelled image does not count") for note in notes)
    rows = [f"{name},{'ok' if '/good/' in name else 'ng'}\n" for name in pool]
    decisions.write_text("image_id,decision\n" + "".join(rows))
    import_labels(make_plan(plan.experiment).line("strip"), decisions)
    whole, notes = judged(make_plan(plan.experiment), tmp_path)
    assert (whole.test.ok + whole.test.ng, whole.test.chosen) == (12, 0)
    assert whole.quality.image_auroc.n == 12
    assert not any("not count" in note for note in notes)


def test_moved_thresholds_are_judged_without_training_or_scoring(images: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", images, 5)
    before, _ = judged(plan, tmp_path)
    run = RunStore.of(plan)
    commits = run.commits()
    found = {}
    for rule in ({"excess": -0.9}, {"recall": 1.0}, {"promised": 0.4}):
        choice = ThresholdChoice.model_validate(rule)
        overrides = {"overrides": {"st*": Override(threshold=choice)}, "costs": COSTS}
        experiment = plan.experiment.model_copy(update=overrides)
        moved = make_plan(experiment)
        assert [unit.unit_id for unit in moved.units] == [unit.unit_id for unit in plan.units]
        findings = analyze(moved, run, "2026-11-28")
        (unit,) = (unit for unit in findings.finished if unit.unit.unit_id == plan.units[0].unit_id)
        found[str(choice)] = unit.result.judged.quality
        threshold = unit.result.trained.threshold
        assert unit.result.judged.quality.recall == share_above(unit.images, "ng", threshold)
        assert unit.result.judged.quality.false_alarm_rate == share_above(unit.images, "ok", threshold)
        assert unit.result.judged.quality.image_auroc == before.quality.image_auroc
        assert findings.held_out["strip"][unit.unit.model].threshold == threshold
        terms = findings.board.verdicts[0].terms[unit.unit.model]
        quality = unit.result.judged.quality
        assert terms["missed defects"] == pytest.approx((quality.recall.value or 0.0) - 1)
        assert terms["false alarms"] == pytest.approx(
            -COSTS.alarms_per_defect * (quality.false_alarm_rate.value or 0.0)
        )
        notes = " ".join(findings.board.verdicts[0].notes)
        assert (f"The thresholds were {choice} by the experiment." in notes) is choice.promises_nothing
    assert run.commits() == commits
    assert found["moved to a recall of 100%"].recall.value == 1.0
    assert found["moved to an excess of -0.9"] != before.quality
