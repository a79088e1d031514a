from __future__ import annotations

import hashlib
import io
import shutil
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Protocol
from raybench.data.cache import CachedShard, Index
from raybench.data.corrections import Correction
from raybench.data.decode import encode_mask
from raybench.data.labels import correct_labels
from raybench.data.manifest import Change, Label
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import ImageRow, read_rows
from raybench.detectors import registry
from raybench.detectors.protocol import Card, Detector, TrainSteps
from raybench.errors import IntegrityError
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import ImageCounts, QualityRecord, ScoredShard, ScoreRecord, UnitResult
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import read_scores
from raybench.store import Store, open_store
from raybench.worker import context as context_module
from raybench.worker.context import WorkerContext, cached_detector, node_cache, size_of
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.timing import BackgroundLoad, measure
from raybench.worker.train import split_train, train
from tests.support.made_run import finish, site_of


@pytest.fixture
def packed(packed_in_folder: Store) -> Store:
    return packed_in_folder


@pytest.fixture
def plan(experiment: Experiment) -> Plan:
    return make_plan(experiment)


@pytest.fixture
def context(plan: Plan, tmp_path: Path) -> WorkerContext:
    return site_of(plan, tmp_path)


def test_a_unit_from_training_to_its_result(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    trained = train(unit, manifest, context)
    assert (trained.train_ok, trained.held_out_ok) == (19, 5)
    assert trained.threshold.value is not None
    records = [score(unit, manifest, shard, context) for shard in manifest.scored_shards]
    assert sum(record.rows for record in records) == 12
    assert sum(record.masks for record in records) == 6
    quality = merge(unit, manifest, context.run, Partials())
    measure(unit, manifest, context)
    result = finalize(unit, context.run)
    assert (result.trained, result.judged) == (trained, quality)
    assert quality.quality.pixel_auroc.value is not None
    assert quality.quality.image_auroc.n == 12
    assert quality.test == ImageCounts(6, 6, 6, 0)
    assert result.measured.size.disk_mb == pytest.approx(sum(blob.size for blob in trained.model.values()) / 1e6)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_speed_on_a_busy_machine_is_an_estimate(
    plan: Plan, context: WorkerContext, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BackgroundLoad, "share", lambda _: 0.5)
    unit, context = plan.units[0], replace(context, threads=threads)
    train(unit, plan.manifests["strip"], context)
    speed = measure(unit, plan.manifests["strip"], context).speed
    assert speed.is_disturbed
    assert speed.wall_p50_ms is not None
    assert 0 < speed.p50_ms <= speed.wall_p50_ms
    assert (speed.other_load, speed.threads) == (0.5, threads)


def test_the_result_says_how_many_steps_training_took(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = TrainSteps(312, 1000, 60.0)
    card = Card("fake", "none", "none", "made up", 1, steps=steps)
    unit, manifest = plan.units[0], plan.manifests["strip"]
    kind = type(registry.create(registry.resolve(unit.detector, unit.config), size_of(unit), context.fit_context(unit)))
    monkeypatch.setattr(kind, "card", lambda _: card)
    finish(unit, manifest, context)
    result = context.run.read(unit.unit_id, "finished", UnitResult)
    assert result is not None
    assert result.trained.steps == steps


def test_scores_shards_say_what_was_seen(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    trained = train(unit, manifest, context)
    record = score(unit, manifest, manifest.scored_shards[0], context)
    data = context.run.get_blob(record.shard)
    rows = read_scores(data)
    assert len(rows) == record.rows == 4
    for row in rows:
        assert row.heatmap is not None
        assert row.heatmap.shape == (unit.input.height, unit.input.width)
        assert row.is_anomalous == (row.score > (trained.threshold.value or 0.0))
        assert (row.line, row.model, row.detector_id) == ("strip", "fake", unit.detector_id)
    assert pq.read_schema(io.BytesIO(data)).names[:3] == ["image_id", "line", "model"]
    images = ImageScores.from_bytes(context.run.get_blob(record.images))
    assert images.scores.tolist() == [row.score for row in sorted(rows, key=lambda row: row.image_id)]


def test_what_is_committed_is_not_done_again(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    first = train(unit, manifest, context), score(unit, manifest, manifest.scored_shards[0], context)
    monkeypatch.setattr(registry, "create", lambda *_: pytest.fail("built again"))
    again = train(unit, manifest, context), score(unit, manifest, manifest.scored_shards[0], context)
    assert again == first


def test_shards_merge_in_any_order_and_once(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    train(unit, manifest, context)
    records: list[ScoreRecord] = [score(unit, manifest, shard, context) for shard in manifest.scored_shards]
    forth, back = Partials(), Partials()
    for record in records:
        forth.add(context.run, record)
    for record in [*reversed(records), *records]:
        back.add(context.run, record)
    assert (back.rows, back.masks) == (forth.rows, forth.masks) == (12, 6)
    assert back.images.to_bytes() == forth.images.to_bytes()
    assert back.pixels.to_bytes() == forth.pixels.to_bytes()


def test_nothing_is_concluded_from_half_a_unit(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    with pytest.raises(IntegrityError, match="before it was trained"):
        score(unit, manifest, manifest.scored_shards[0], context)
    train(unit, manifest, context)
    score(unit, manifest, manifest.scored_shards[0], context)
    with pytest.raises(IntegrityError, match="not committed"):
        merge(unit, manifest, context.run, Partials())
    assert context.run.read(unit.unit_id, "quality", QualityRecord) is None


def test_a_damaged_partial_is_noticed(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    train(unit, manifest, context)
    records = [score(unit, manifest, shard, context) for shard in manifest.scored_shards]
    context.run.store.put(records[0].pixels.key, b"damaged")
    with pytest.raises(IntegrityError, match="damaged"):
        merge(unit, manifest, context.run, Partials())


def test_held_out_images_do_not_depend_on_shards(plan: Plan, context: WorkerContext) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    shards = [context.cached_shard(unit, manifest, shard) for shard in manifest.shards_of("train")]
    assert len(shards) == 6
    kept, held = split_train(shards, unit.protocol)
    again_kept, again_held = split_train(shards[::-1], unit.protocol)
    assert set(held.image_ids) == set(again_held.image_ids)
    assert set(kept.image_ids) == set(again_kept.image_ids)
    assert not set(kept.image_ids) & set(held.image_ids)
    assert np.array_equal(kept.batch([2])[0], shards[kept.places[2][0]].batch([kept.places[2][1]])[0])


def shards_of(groups: Sequence[str], rows: int = 7) -> list[CachedShard]:
    """Make shards without pixels of images that belong to these groups; an empty group is none."""
    images = [(f"{at:03}.png", group or f"{at:03}.png") for at, group in enumerate(groups)]
    shards = []
    for start in range(0, len(images), rows):
        ids, names = zip(*images[start : start + rows], strict=True)
        shards.append(CachedShard(Index(ids, (), (), names), Path(), 1, 1))
    return shards


@given(groups=st.lists(st.integers(0, 30).map(str), max_size=60), share=st.sampled_from([0.1, 0.2, 0.5]),
       budget=st.sampled_from([0.05, 0.2, 0.5]))  # fmt: skip
def test_whole_groups_are_held_back(groups: list[str], share: float, budget: float) -> None:
    shards = shards_of(groups)
    kept, held = split_train(shards, Protocol(share, budget))
    assert sorted(kept.image_ids + held.image_ids) == [image for shard in shards for image in shard.image_ids]
    assert not set(kept.groups) & set(held.groups)
    assert len(held) <= len(groups) // 2
    count, half = len(set(groups)), len(groups) // 2
    wanted = min(max(round(share * count), round(1 / budget) - 1), count // 2)
    assert len(set(held.groups)) <= wanted
    largest = sorted(Counter(groups).values(), reverse=True)[:wanted]
    if sum(largest) <= half:
        assert len(set(held.groups)) == wanted
    if count > 1:
        assert len(held) > 0
    again_kept, again_held = split_train(shards[::-1], Protocol(share, budget))
    assert (set(again_kept.image_ids), set(again_held.image_ids)) == (set(kept.image_ids), set(held.image_ids))


@given(st.integers(0, 80), st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from([0.05, 0.2, 0.5]))
def test_without_groups_images_are_held_back_by_the_hash_of_their_ids(n: int, share: float, budget: float) -> None:
    shards = shards_of([""] * n)
    _, held = split_train(shards, Protocol(share, budget))
    by_hash = sorted((f"{at:03}.png" for at in range(n)), key=lambda image: hashlib.sha256(image.encode()).digest())
    count = min(max(round(share * n), round(1 / budget) - 1), n // 2)
    assert list(held.image_ids) == sorted(by_hash[:count])


def test_a_group_of_most_images_is_trained_on() -> None:
    groups = ["lot 1"] * 30 + [f"lot {2 + at // 4}" for at in range(20)]
    kept, held = split_train(shards_of(groups), Protocol(0.5, 0.05))
    assert "lot 1" in kept.groups
    assert len(set(held.groups)) == 3


def test_groups_reach_thresholds_and_scores(
    experiment: Experiment, packed: Store, strips: Path, tmp_path: Path
) -> None:
    """Three photographs of each part: 8 parts to train on, of which 4 are held back."""
    images = sorted(path.relative_to(strips).as_posix() for path in strips.glob("t*/*/*.png"))
    part_of = {path: f"{path.partition('/')[0]} part {at // 3}" for at, path in enumerate(images)}
    part_of[images[0]] = ""
    table = [f"{path},{path.partition('/')[0]},{'ok' if '/good/' in path else 'ng'},{part_of[path]}" for path in images]
    folder = Path(shutil.copytree(strips, tmp_path / "images"))
    (folder / "table.csv").write_text("path,split,label,group\n" + "\n".join(table))
    pack(open_store(str(folder)), packed.sub("lines"), "parts", PackOptions(layout="csv", shard_rows=4))
    plan = make_plan(experiment.model_copy(update={"lines": ("parts",)}))
    unit, manifest = plan.units[0], plan.manifests["parts"]
    (tmp_path / "cache").mkdir()
    context = WorkerContext(RunStore(plan.store, "night"), plan.store.sub("lines"), tmp_path / "cache", "cpu", 1)
    trained = train(unit, manifest, context)
    held = ImageScores.from_bytes(context.run.get_blob(trained.held_out))
    assert held.groups.tolist() == [part_of[image_id] or image_id for image_id in held.image_ids.tolist()]
    assert Counter(held.groups.tolist()) == dict.fromkeys(set(held.groups.tolist()), 3)
    assert (trained.threshold.n, trained.threshold.groups) == (12, 4)
    assert trained.threshold == conformal_threshold(held.scores, unit.protocol.false_alarm_budget, held.groups)
    assert trained.pixel_threshold.groups == 4
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    merged = merge(unit, manifest, context.run, Partials())
    scored = ImageScores.from_bytes(context.run.get_blob(merged.images))
    assert dict(zip(scored.image_ids.tolist(), scored.groups.tolist(), strict=True)) == {
        path: part_of[path] or path for path in images if path.startswith("test/")
    }


def test_the_cache_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "cache"))
    assert node_cache().stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "link"))
    with pytest.raises(Exception, match="not a folder of this user"):
        node_cache()


def test_a_hot_detector_is_loaded_once_but_for_each_number_of_threads(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, manifest = plan.units[0], plan.manifests["strip"]
    trained = train(unit, manifest, context)
    loads: list[int] = []
    load = registry.load

    def counted(folder: Path, device: str, threads: int) -> Detector:
        loads.append(threads)
        return load(folder, device, threads)

    monkeypatch.setattr(registry, "load", counted)
    monkeypatch.setattr(context_module, "loaded_detectors", OrderedDict())  # what other tests have loaded is not there
    other = replace(context, threads=2)
    for place in (context, context, other, context, other):
        cached_detector(unit, trained, place)
    assert loads == [1, 2]
    cached_detector(unit, trained, other, alone=True)
    assert loads == [1, 2]
    cached_detector(unit, trained, context)
    assert loads == [1, 2, 1]


def test_no_test_image_has_a_say_in_training_or_threshold(packed: Store, strips: Path, tmp_path: Path) -> None:
    """Take the test images away and put others in their place: detector and thresholds stay the same, bit for bit."""
    swapped = tmp_path / "swapped"
    shutil.copytree(strips, swapped)
    for path in sorted((swapped / "test").rglob("*.png")):
        image = cv2.imread(str(path))
        assert image is not None
        cv2.imwrite(str(path), 255 - image)
    pack(open_store(str(swapped)), packed.sub("lines"), "swapped", PackOptions(shard_rows=4))
    chosen = Experiment(
        name="night",
        store=packed.uri(),
        lines=("strip", "swapped"),
        models=(ModelChoice(name="fake"), ModelChoice(name="padim")),
        input=InputChoice(pixels=64 * 64),
        squashed_twins=False,
    )
    plan = make_plan(chosen)
    context = WorkerContext(RunStore(plan.store, "night"), plan.store.sub("lines"), tmp_path, "cpu", 1)
    for model in ("fake", "padim"):
        one, other = (train(unit, plan.manifests[unit.line], context) for unit in plan.units if unit.model == model)
        assert one.detector_id != other.detector_id
        assert (one.threshold, one.pixel_threshold) == (other.threshold, other.pixel_threshold)
        digests = [{name: blob.sha256 for name, blob in record.model.items()} for record in (one, other)]
        assert digests[0] == digests[1]


def test_a_worker_that_changes_its_gpu_keeps_nothing_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from raybench.detectors import device as device_module  # torch takes seconds to import

    chosen, given_back = [0], list[str]()
    monkeypatch.setattr(device_module, "exact", lambda device: f"{device}:{chosen[-1]}")
    monkeypatch.setattr(device_module, "use_gpu", chosen.append)
    monkeypatch.setattr(device_module, "give_back_memory", given_back.append)
    # To have one there by public means would take a training.
    monkeypatch.setattr(context_module, "loaded_detectors", OrderedDict({("digest",): "a detector"}))
    context_module.use_gpu(0)
    assert (len(context_module.loaded_detectors), given_back) == (1, [])
    context_module.use_gpu(3)
    assert (len(context_module.loaded_detectors), given_back) == (0, ["cuda"])


def test_few_training_images_are_whole_groups_and_among_those_of_a_larger_number() -> None:
    groups = [f"part {at // 3}" for at in range(60)]
    shards = shards_of(groups)
    sizes = {}
    for wanted in (10, 25, 60):
        kept, held = split_train(shards, Protocol(0.2, 0.2, train_images=wanted))
        ids = {*kept.image_ids, *held.image_ids}
        assert wanted <= len(ids) < wanted + 3
        assert not set(kept.groups) & set(held.groups)
        sizes[wanted] = ids
    assert sizes[10] < sizes[25] < sizes[60]
    whole = split_train(shards, Protocol(0.2, 0.2))
    assert sizes[60] == {*whole[0].image_ids, *whole[1].image_ids}


def test_a_corrected_label_is_judged_again_from_the_stored_heat_maps(
    plan: Plan, context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is a run of its own that trains and scores the corrected line from the start."""

    def correction_of(row: ImageRow, label: Label, defect_type: str = "", mask: bytes | None = None) -> Correction:
        return Correction(row.image_id, row.sha256, label, defect_type, mask, "a person", "2026-11-27", "labels.csv")

    unit, manifest = plan.units[0], plan.manifests["strip"]
    train(unit, manifest, context)
    before = [score(unit, manifest, shard, context) for shard in manifest.scored_shards]
    found = {row.image_id: row for shard in manifest.scored_shards for row in read_rows(context.lines, shard)}
    ok, ng = (next(row for row in found.values() if row.label == label) for label in ("ok", "ng"))
    mask = encode_mask(np.pad(np.ones((20, 30), np.bool_), ((5, ok.height - 25), (5, ok.width - 35))))
    corrected = correct_labels(
        context.lines,
        manifest,
        [correction_of(ok, label="ng", defect_type="scratch", mask=mask), correction_of(ng, label="ok")],
        Change("2026-11-27T00:00:00+00:00", "a person", "2 labels", manifest.digest),
    )
    assert corrected.counts == manifest.counts
    anew = make_plan(plan.experiment)
    again = anew.units[0]
    assert (again.detector_id, again.unit_id != unit.unit_id) == (unit.detector_id, True)
    with monkeypatch.context() as patch:
        for name in ("create", "load"):
            patch.setattr(registry, name, lambda *_: pytest.fail("a detector is not needed"))
        patch.setattr(context_module, "loaded_detectors", OrderedDict())  # the one that was trained is not there
        train(again, corrected, context)
        judged = [score(again, corrected, shard, context) for shard in corrected.scored_shards]
        quality = merge(again, corrected, context.run, Partials())
    assert [record.shard for record in judged] == [record.shard for record in before]
    fresh = replace(context, run=RunStore(plan.store, "another"))
    train(again, corrected, fresh)
    for shard in corrected.scored_shards:
        score(again, corrected, shard, fresh)
    expected = merge(again, corrected, fresh.run, Partials())
    assert quality.quality == expected.quality
    assert quality.regions == expected.regions
    assert quality.test == expected.test == ImageCounts(6, 6, 6, 0)
    for old in judged:
        new = fresh.run.read(again.unit_id, score_name(old.image_shard), ScoreRecord)
        assert new is not None
        for part in ("images", "pixels", "regions", "contrast", "traits"):
            assert getattr(old, part).sha256 == getattr(new, part).sha256, part
    rival, read = replace(again, line_digest="of a second driver"), RunStore.read
    with monkeypatch.context() as patch:  # the second driver began before the first had scored, by other labels
        patch.setattr(RunStore, "read", lambda run, *of: None if of[-1] is ScoredShard else read(run, *of))
        late = [score(rival, corrected, shard, context) for shard in corrected.scored_shards]
    for old, new in zip(judged, late, strict=True):
        assert (old.shard, old.traits.sha256) == (new.shard, new.traits.sha256)
