"""From committed units to the annotation queue of a report, without a cluster."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest

from raybench.analysis.flags import collect_scores
from raybench.analysis.queue_builder import Queue, QueueBuilder
from raybench.analysis.queue_evaluation import QueueEvaluation
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Override
from raybench.config.plan import Plan, make_plan
from raybench.data.corrections import Correction
from raybench.data.labels import LabelChange, with_corrections
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import read_rows
from raybench.metrics.image import ImageScores
from raybench.report.publish import publish
from raybench.runs.records import QualityRecord, TrainRecord, UnitResult
from raybench.runs.run import RunStore
from raybench.store import open_store
from tests.support.made_run import few_samples, finish, site_of

BUDGET, SIGNALS = 4, 2
DIRT = [f"dirt-{at}.png" for at in range(4)]


def write_dirty(strips: Path, folder: Path) -> Path:
    """The strips, with some OK training images that are not OK."""
    shutil.copytree(strips, folder)
    image = cv2.imread(str(folder / "train" / "good" / "000.png"))
    assert image is not None
    for at, name in enumerate(DIRT):
        spoilt = image.copy()
        cv2.rectangle(spoilt, (20 + 70 * at, 20), (60 + 70 * at, 60), (255, 255, 255), -1)
        cv2.imwrite(str(folder / "train" / "good" / name), spoilt)
    return folder


@pytest.fixture(autouse=True)
def learnt_quickly() -> Iterator[None]:
    """What anomalies look like is learnt from few images."""
    with few_samples():
        yield


@pytest.fixture(scope="module")
def done(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run on that line."""
    dirty = write_dirty(strips, tmp_path_factory.mktemp("photos") / "dirty")
    store = open_store(str(tmp_path_factory.mktemp("store")))
    pack(open_store(str(dirty)), store.sub("lines"), "strip", PackOptions(shard_rows=8))
    chosen = Experiment(
        name="night",
        store=store.uri(),
        lines=("strip",),
        models=(ModelChoice(name="fake"), ModelChoice(name="fake", label="coarse", config={"grid": 16})),
        false_alarm_budget=0.2,
        held_out=0.5,
        annotation=Annotation(budget=BUDGET, signals=SIGNALS),
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
    )
    plan = make_plan(chosen)
    site = site_of(plan, tmp_path_factory.mktemp("cache"))
    for unit in plan.units:
        finish(unit, plan.manifests[unit.line], site)
    return plan


def published(plan: Plan) -> tuple[pd.DataFrame, QueueEvaluation, RunStore]:
    run = RunStore(plan.store, "night")
    board = publish(plan, run, "")
    payoff = board.payoff_on("strip")
    assert payoff is not None
    return pd.read_parquet(io.BytesIO(run.get_report("flags.parquet"))), payoff, run


def test_the_queue_of_a_run(done: Plan) -> None:
    flags, payoff, run = published(done)
    trained = run.read(done.units[0].detector_id, "train", TrainRecord)
    assert trained is not None
    held_back = ImageScores.from_bytes(run.get_blob(trained.held_out))
    assert len(held_back.image_ids) == payoff.checked == trained.held_out_ok == 14
    assert trained.threshold.value in held_back.scores
    dirt = {image for image in held_back.image_ids.tolist() if image.rpartition("/")[2] in DIRT}
    assert dirt
    suspicious = flags[[("suspicious training image" in kinds) for kinds in flags["kinds"]]]
    assert set(suspicious["image_id"]) == dirt
    assert payoff.suspicious == len(dirt)
    assert flags["rank"].tolist() == list(range(1, len(flags) + 1))
    assert flags["picked"].sum() == min(BUDGET, len(flags)) == payoff.picked
    told = flags.loc[flags["signal"].notna(), "image_id"].tolist()
    assert told == flags.loc[~flags["image_id"].isin(dirt), "image_id"].tolist()[:SIGNALS]
    assert payoff.diverse
    assert payoff.types == 2
    assert payoff.precision.n == BUDGET
    assert payoff.precision.value is not None
    assert payoff.sentence in run.get_report("board.md").decode()
    assert "With labels hidden" in run.get_report("index.html").decode()


def queue_of(plan: Plan, units_of: Plan) -> Queue:
    """The queue of the finished units of one plan by the experiment and the line of another."""
    run = RunStore(units_of.store, "night")
    results = [result for unit in units_of.units if (result := run.read(unit.unit_id, "finished", UnitResult))]
    records = [(unit.unit_id, run.read(unit.unit_id, "quality", QualityRecord)) for unit in units_of.units]
    scores = {unit_id: ImageScores.from_bytes(run.get_blob(record.images)) for unit_id, record in records if record}
    builder = QueueBuilder(plan, run, publish(units_of, run, ""), units_of.units)
    (queue,) = builder.queues(collect_scores(results, scores))
    return queue


def suspicious_scores(plan: Plan, units_of: Plan) -> list[float]:
    """Scores of the suspicious training images."""
    return [flag.score for flag in queue_of(plan, units_of).flags if "suspicious training image" in flag.kinds]


def test_nobody_is_asked_again_about_a_bad_picture(done: Plan) -> None:
    lines, manifest = done.lines_of("strip"), done.manifests["strip"]
    scored = [row for shard in manifest.scored_shards for row in read_rows(lines, shard, images=False)]
    bad = [Correction(row.image_id, row.sha256, "unknown", "", None, "mia", "", "a.csv") for row in scored]
    changes = [LabelChange(*pair) for pair in zip(scored, bad, strict=True)]
    aside = replace(done, manifests={"strip": with_corrections(lines, manifest, changes)})
    assert {flag.kind for flag in queue_of(aside, done).flags} == {"suspicious training image"}


def test_a_line_s_own_false_alarm_budget_sets_the_threshold_of_its_held_back_images(done: Plan) -> None:
    def with_budget(**budget: object) -> Plan:
        return replace(done, experiment=done.experiment.model_copy(update=budget))

    loose = suspicious_scores(with_budget(false_alarm_budget=0.4), done)
    overridden = {"strip": Override(false_alarm_budget=0.4)}
    assert loose
    assert suspicious_scores(with_budget(overrides=overridden), done) == loose
    assert suspicious_scores(done, done) != loose


def test_publishing_again_gives_the_same_bytes(done: Plan) -> None:
    _, _, run = published(done)
    first = [run.get_report(name) for name in ("flags.parquet", "board.json", "index.html")]
    run.store.put("runs/night/signals/strip.json", b"{}")  # no memory of what was told
    published(done)
    assert [run.get_report(name) for name in ("flags.parquet", "board.json", "index.html")] == first
