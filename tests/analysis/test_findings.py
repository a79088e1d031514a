"""Findings of a run, and what else says the same."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raybench import Run
from raybench.analysis.findings import Findings, analyze, robustness_on
from raybench.analysis.learning_curve import plan_curve, read_curve
from raybench.analysis.robustness import AS_TAKEN
from raybench.analysis.slices import slice_frame
from raybench.config.experiment import Costs, Override, ThresholdChoice
from raybench.config.plan import Plan, make_plan
from raybench.data.inspection.duplicates import Copy, Group
from raybench.data.inspection.inspection import inspect, write_inspection
from raybench.data.perturbations import Perturbation, PerturbedImages
from raybench.data.shards import read_rows
from raybench.metrics.image import share_above
from raybench.metrics.sampling import permanent_numbers
from raybench.metrics.threshold import excess_of
from raybench.report.annotations.read import import_labels
from raybench.report.publish import write
from raybench.runs.records import QualityRecord
from raybench.runs.robustness import MeasuredRobustness, write_robustness
from raybench.runs.run import RunStore, versions
from raybench.worker import train
from raybench.worker.robustness import score_perturbed
from tests.support.made_run import all_commits, begin, finish, planned, site_of
from tests.support.results import done

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


def test_slices_and_robustness_have_the_thresholds_of_the_report(strips: Path, tmp_path: Path) -> None:
    """The experiment sets them on the OK images of the test split, not on those that are held back."""
    folder = Path(shutil.copytree(strips, tmp_path / "images"))
    rows = [("path", "split", "label", "camera")]
    for at, path in enumerate(sorted([*folder.glob("train/*/*.png"), *folder.glob("test/*/*.png")])):
        name, ok = path.relative_to(folder).as_posix(), path.parent.name == "good"
        rows.append((name, path.parts[-3], "ok" if ok else "ng", "left" if at % 2 else "right"))
    with (folder / "images.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    held_out = planned(tmp_path / "store", folder, 5)
    source = ThresholdChoice.model_validate({"from": "test_ok"})
    plan = make_plan(held_out.experiment.model_copy(update={"threshold": source}))
    unit, line, context = plan.units[0], plan.line("strip"), site_of(plan, tmp_path)
    finish(unit, line.manifest, context)
    noisy = PerturbedImages(line.digests(), Perturbation("noise", 0.06))
    record = score_perturbed(unit, line.manifest, noisy, context)
    scores = dict(zip(record.image_ids, record.scores, strict=True))
    measured = MeasuredRobustness(noisy.images, {unit.detector_id: {record.perturbation: scores}})
    write_robustness(context.run, "strip", measured)
    found = analyze(plan, context.run, "2026-11-28")
    (result,) = [each.result for each in found.finished]
    limit = result.trained.threshold.value
    assert limit is not None
    assert limit != analyze(held_out, context.run, "2026-11-28").finished[0].result.trained.threshold.value
    assert slice_frame(found.slices["strip"]).equals(Run(plan).slices("strip", "fake"))
    assert len(found.slices["strip"]) == 2
    points = {point.perturbation: point for point in found.robustness["strip"]}
    assert points[AS_TAKEN].recall == result.judged.quality.recall
    good = [image_id for image_id in scores if "/good/" in image_id]
    assert points["noise 6 %"].false_alarm_rate.value == np.mean([scores[image_id] > limit for image_id in good])
    assert robustness_on(plan, "strip") == found.robustness["strip"]


def test_the_versions_are_those_that_made_the_units(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that are installed where the report is written."""
    plan = planned(tmp_path / "store", strips, 5)
    installed = versions()
    monkeypatch.setattr(train, "versions", lambda: {**installed, "torch": "1.0"})
    finish(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path))
    made_by = analyze(plan, RunStore.of(plan), "2026-11-28").board.context.versions
    assert made_by == {**installed, "torch": f"1.0 and {installed['torch']}"}


def test_duplicates_that_the_inspection_has_found_count_as_one_image(strips: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", strips, 5)
    finish(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path))
    run, lines, manifest = RunStore.of(plan), plan.lines_of("strip"), plan.manifests["strip"]
    inspection = inspect(lines, manifest, 1)
    write_inspection(lines, replace(inspection, groups=()))
    (apart,) = analyze(plan, run, "2026-11-28").board.rows
    copies = [Copy(name, "test", "ok") for name in analyze(plan, run, "2026-11-28").finished[0].images.image_ids]
    pairs = [Group("near", 0.1, tuple(copies[at : at + 3])) for at in range(0, len(copies), 3)]
    write_inspection(lines, replace(inspection, groups=tuple(pairs)))
    (together,) = analyze(plan, run, "2026-11-28").board.rows
    before, after = done(apart).quality.recall, done(together).quality.recall
    assert (before.value, before.n) == (after.value, after.n)
    assert after.high - after.low > before.high - before.low  # type: ignore[operator]


def test_learning_curves_are_found_by_the_names_of_their_runs(strips: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", strips, 5)
    finish(plan.units[0], plan.manifests["strip"], site_of(plan, tmp_path))
    assert analyze(plan, RunStore.of(plan), "2026-11-28").curves == {}
    (smaller, whole) = plan_curve(plan, "strip", [10, 99], []).items()
    assert whole == (24, plan)
    begin(smaller[1])
    finish(smaller[1].units[0], plan.manifests["strip"], site_of(smaller[1], tmp_path))
    (plan.store.sub("runs/night.other-12-images")).put("experiment.yaml", b"")
    curves = analyze(plan, RunStore.of(plan), "2026-11-28").curves
    assert {line: [(point.model, point.images) for point in points] for line, points in curves.items()} == {
        "strip": [("fake", 10), ("fake", 24)]
    }
    assert curves["strip"] == read_curve(plan, "strip", [10, 24])


def assert_api_judges_alike(plan: Plan, findings: Findings) -> None:
    """`Run.images` and `Run.heatmap` compare with the threshold of the report."""
    (unit,) = findings.finished
    threshold = unit.result.trained.threshold
    write(plan, RunStore.of(plan), findings)
    frame = Run(plan).images("strip")
    for image_id, score in zip(unit.images.image_ids.tolist(), unit.images.scores.tolist(), strict=True):
        assert frame["excess"][image_id] == excess_of(score, threshold)
    for image_id in unit.images.image_ids[:3].tolist():
        found = Run(plan).heatmap("strip", image_id, "fake")
        assert found.is_anomalous is (found.score > (threshold.value or 0.0))


def test_moved_thresholds_are_judged_without_training_or_scoring(images: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path / "store", images, 5)
    before, _ = judged(plan, tmp_path)
    run = RunStore.of(plan)
    commits = all_commits(run)
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
        assert_api_judges_alike(moved, findings)
    assert all_commits(run) == commits
    assert found["moved to a recall of 100%"].recall.value == 1.0
    assert found["moved to an excess of -0.9"] != before.quality
