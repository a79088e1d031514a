from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.data.inspection.inspection import Inspection, inspection_key
from raybench.data.manifest import Manifest, read_manifest
from raybench.data.pack import PackOptions, pack
from raybench.errors import StoreDenied
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.store import Store, open_store
from raybench.worker.inspect import inspect_in_run, inspect_line, inspection_in, record_failed_inspection


@pytest.fixture
def line(strips: Path, tmp_path: Path) -> tuple[Store, Manifest]:
    lines = open_store(str(tmp_path / "lines"))
    return lines, pack(open_store(str(strips)), lines, "strip", PackOptions(shard_rows=10))


def test_a_line_is_inspected_once(line: tuple[Store, Manifest]) -> None:
    lines, manifest = line
    looked_at: list[int] = []
    first = inspect_line(lines, manifest, progress=looked_at.append)
    assert sum(looked_at) == first.images == 36
    for shard in manifest.shards:
        lines.delete(shard.key)
    assert inspect_line(lines, manifest, progress=looked_at.append) == first
    assert sum(looked_at) == 36


def test_packing_other_images_makes_it_stale(line: tuple[Store, Manifest], strips: Path, tmp_path: Path) -> None:
    lines, manifest = line
    inspect_line(lines, manifest)
    images = Path(shutil.copytree(strips, tmp_path / "images"))
    (images / "train" / "good" / "000.png").unlink()
    again = pack(open_store(str(images)), lines, "strip")
    assert not lines.exists(inspection_key("strip"))
    assert inspect_line(lines, again).images == 35


def test_an_inspection_does_not_change_the_line(line: tuple[Store, Manifest]) -> None:
    lines, manifest = line
    inspect_line(lines, manifest)
    assert read_manifest(lines, "strip") == manifest


def test_lines_that_may_only_be_read_are_inspected(
    line: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(store: Store, key: str, data: bytes) -> None:
        raise StoreDenied("no")

    lines, manifest = line
    monkeypatch.setattr(Store, "put", denied)
    assert inspect_line(lines, manifest).images == 36
    assert not lines.exists(inspection_key("strip"))


def run_at(tmp_path: Path) -> RunStore:
    return RunStore(open_store(str(tmp_path / "store")), "night")


def test_a_run_keeps_what_it_finds_beside_its_own_lines(line: tuple[Store, Manifest], tmp_path: Path) -> None:
    lines, manifest = line
    run = run_at(tmp_path)
    assert inspection_in(run, lines, manifest) is None
    inspect_in_run(run, lines, manifest, own=True)
    made = inspection_in(run, lines, manifest)
    assert made == inspect_line(lines, manifest)
    assert not list(run.lines.list())
    for shard in manifest.shards:
        lines.delete(shard.key)
    inspect_in_run(run, lines, manifest, own=True)  # would have to read them


def test_a_run_writes_nothing_to_lines_that_it_only_reads(line: tuple[Store, Manifest], tmp_path: Path) -> None:
    lines, manifest = line
    run, before = run_at(tmp_path), list(lines.list())
    inspect_in_run(run, lines, manifest, own=False)
    assert list(lines.list()) == before
    found = inspection_in(run, lines, manifest)
    assert isinstance(found, Inspection)
    assert found.images == 36
    other = replace(manifest, line="other")
    assert inspection_in(run, lines, other) is None


def test_own_lines_may_be_closed_to_a_run(
    line: tuple[Store, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, manifest = line
    run, put = run_at(tmp_path), Store.put

    def denied(store: Store, key: str, data: bytes) -> None:
        if store.uri() == lines.uri():
            raise StoreDenied("no")
        put(store, key, data)

    monkeypatch.setattr(Store, "put", denied)
    inspect_in_run(run, lines, manifest, own=True)
    assert isinstance(inspection_in(run, lines, manifest), Inspection)
    assert not lines.exists(inspection_key("strip"))


def test_a_failure_is_known_until_there_is_an_inspection(line: tuple[Store, Manifest], tmp_path: Path) -> None:
    lines, manifest = line
    run = run_at(tmp_path)
    failure = Failure("inspect", "IntegrityError", "damaged", "Traceback", 2)
    record_failed_inspection(run, "strip", failure)
    assert inspection_in(run, lines, manifest) == failure
    inspect_in_run(run, lines, manifest, own=True)
    assert isinstance(inspection_in(run, lines, manifest), Inspection)
