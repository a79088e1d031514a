from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raybench.errors import StoreDenied
from raybench.lines.manifest import Manifest, read_manifest
from raybench.lines.pack import PackOptions, pack
from raybench.lines.quality import quality_key
from raybench.store import Store, open_store
from raybench.work.inspect import inspect_line


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
    assert not lines.exists(quality_key("strip"))
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
    assert not lines.exists(quality_key("strip"))
