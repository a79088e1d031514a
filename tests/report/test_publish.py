from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from raybench.analysis.findings import analyze
from raybench.config import unit as unit_module
from raybench.config.plan import Plan
from raybench.data.geometry import to_source
from raybench.metrics.small_maps import SmallMaps, heat_codes
from raybench.report import pictures
from raybench.report import publish as publish_module
from raybench.report.publish import download, publish, write
from raybench.runs.ledger import Ledger
from raybench.runs.records import Blob, ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import read_scores
from raybench.worker.context import fit_of
from tests.golden.make import CREATED, ID_VERSION, STORED, plan_of

FILES = {"board.csv", "board.json", "board.md", "flags.parquet", "index.html"}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a finished run."""
    monkeypatch.setattr(unit_module, "ID_VERSION", ID_VERSION)
    with tarfile.open(STORED) as tar:
        tar.extractall(tmp_path, filter="data")
    return plan_of(tmp_path / "store")


def objects(plan: Plan) -> dict[str, bytes]:
    return {item.key: plan.store.get(item.key) for item in plan.store.list("")}


def test_analysis_writes_nothing(plan: Plan) -> None:
    before = objects(plan)
    findings = analyze(plan, RunStore(plan.store, "golden", Ledger.read(RunStore(plan.store, "golden"))), CREATED)
    assert findings.board.lines == ("strip",)
    assert len(findings.images) == 4
    assert objects(plan) == before


def test_writing_adds_the_report_and_the_costs(plan: Plan) -> None:
    for key in [key for key in objects(plan) if "/report/" in key or key.startswith("costs/")]:
        plan.store.delete(key)
    before = objects(plan)
    run = RunStore(plan.store, "golden", Ledger.read(RunStore(plan.store, "golden")))
    write(plan, run, analyze(plan, run, CREATED))
    written = {key: data for key, data in objects(plan).items() if before.get(key) != data}
    assert set(written) == {f"{run.root}/report/{name}" for name in FILES} | {"costs/golden.json"}
    publish(plan, run, CREATED)
    assert objects(plan) == before | written


def test_heat_maps_are_drawn_without_reading_them(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only their small copies are read."""
    run = RunStore(plan.store, "golden", Ledger.read(RunStore(plan.store, "golden")))
    read: list[Blob] = []
    get = RunStore.get_blob

    def watched(self: RunStore, blob: Blob) -> bytes:
        read.append(blob)
        return get(self, blob)

    monkeypatch.setattr(RunStore, "get_blob", watched)
    publish(plan, run, CREATED)
    shards = [shard.key for manifest in plan.manifests.values() for shard in manifest.scored_shards]
    records = [run.read(unit.unit_id, score_name(key), ScoreRecord) for unit in plan.units for key in shards]
    assert all(record and record.small_maps in read and record.shard not in read for record in records)


def test_each_image_has_its_own_heat_map_drawn(plan: Plan) -> None:
    run = RunStore.of(plan)
    drawn = []
    for unit in plan.units:
        trained = run.read(unit.detector_id, "train", TrainRecord)
        assert trained is not None
        assert trained.heat_low is not None
        assert trained.heat_high is not None
        for shard in plan.manifests[unit.line].scored_shards:
            record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
            assert record is not None
            assert record.small_maps is not None
            small = SmallMaps.from_bytes(run.get_blob(record.small_maps))
            for row in read_scores(run.get_blob(record.shard)):
                assert row.heatmap is not None
                codes = small.only({row.image_id})[row.image_id]
                heat = to_source(row.heatmap, fit_of(unit), *codes.shape)
                expected = heat_codes(heat, trained.heat_low, trained.heat_high)
                assert np.abs(codes.astype(int) - expected).max() <= 1  # stored heat is rounded
                drawn.append(codes.tobytes())
    assert len(set(drawn)) == len(drawn) > 4


def test_further_pictures_lie_beside_the_page(plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = RunStore(plan.store, "golden", Ledger.read(RunStore(plan.store, "golden")))
    monkeypatch.setattr(pictures, "PICTURES_PER_LINE", 1)
    publish(plan, run, CREATED)
    copy = download(run, tmp_path)
    files = sorted(path.name for path in (copy / "files").iterdir())
    assert len(files) == 2 * 3  # an image and its heat maps each
    page = (copy / "index.html").read_text(encoding="utf-8")
    assert all(page.count(f"files/{name}") == 1 for name in files)
    (copy / "files" / files[0]).write_bytes(b"\0" * (copy / "files" / files[0]).stat().st_size)
    (copy / "files" / files[1]).write_bytes(b"cut off")
    download(run, tmp_path)
    assert not any((copy / "files" / files[0]).read_bytes()), "a picture that is there is fetched again"
    assert (copy / "files" / files[1]).read_bytes() != b"cut off"
    monkeypatch.undo()
    publish(plan, run, CREATED)
    assert len(list(plan.store.list(f"{run.root}/report/files/"))) == len(files), "an open page may show them"
    monkeypatch.setattr(publish_module, "KEPT_S", -1)
    publish(plan, run, CREATED)
    assert not list(plan.store.list(f"{run.root}/report/files/")), "pictures that no page shows"


def test_a_copy_has_the_folders_of_the_report(plan: Plan, tmp_path: Path) -> None:
    run = RunStore(plan.store, "golden", Ledger.read(RunStore(plan.store, "golden")))
    run.put_report("index.html", b"new")
    run.put_report("files/strip/1.webp", b"pixels")
    copy = download(run, tmp_path / "copy")
    assert (copy / "index.html").read_bytes() == b"new"
    assert (copy / "files" / "strip" / "1.webp").read_bytes() == b"pixels"
