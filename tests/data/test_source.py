from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raybench.data.manifest import manifest_key
from raybench.data.source import PACKING_VERSION, add_from, pack_from, pack_if_changed, read_source
from raybench.errors import LineError
from raybench.store import Store, open_store


@pytest.fixture
def images(strips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(strips, tmp_path / "images"))


@pytest.fixture
def lines(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store" / "lines"))


def packed_at(lines: Store) -> str:
    return next(item.stamp for item in lines.list("strip/") if item.key == manifest_key("strip"))


def test_an_unchanged_folder_is_packed_once(images: Path, lines: Store) -> None:
    first = pack_if_changed(open_store(str(images)), lines, "strip", "auto")
    before = packed_at(lines)
    assert pack_if_changed(open_store(str(images)), lines, "strip", "auto") == first
    assert packed_at(lines) == before


def test_a_changed_folder_is_packed_again(images: Path, lines: Store) -> None:
    pack_if_changed(open_store(str(images)), lines, "strip", "auto")
    (images / "test" / "good" / "005.png").unlink()
    assert pack_if_changed(open_store(str(images)), lines, "strip", "auto").counts["test/ok"] == 5


def test_another_layout_is_packed_again(images: Path, lines: Store) -> None:
    pack_from(open_store(str(images)), lines, "strip", "auto")
    before = packed_at(lines)
    pack_if_changed(open_store(str(images)), lines, "strip", "mvtec")
    assert packed_at(lines) != before


def test_a_line_that_an_earlier_version_packed_is_packed_again(images: Path, lines: Store) -> None:
    pack_from(open_store(str(images)), lines, "strip", "auto")
    before, record = packed_at(lines), lines.get("strip/source.json")
    lines.put("strip/source.json", record.replace(f',\n "packing": {PACKING_VERSION}'.encode(), b""))
    assert lines.get("strip/source.json") != record
    pack_if_changed(open_store(str(images)), lines, "strip", "auto")
    assert packed_at(lines) != before


def test_a_line_of_another_folder_stays(images: Path, lines: Store, tmp_path: Path) -> None:
    pack_if_changed(open_store(str(images)), lines, "strip", "auto")
    other = shutil.copytree(images, tmp_path / "other")
    with pytest.raises(LineError, match=r"was packed from file://.*/images; pack file://.*/other under another name"):
        pack_if_changed(open_store(str(other)), lines, "strip", "auto")


def test_a_folder_that_changes_while_it_is_packed_is_packed_again(
    images: Path, lines: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing is taken before the images are read."""
    late = images / "test" / "good" / "late.png"

    def add_late(now: object) -> None:
        if not late.exists():
            shutil.copy(images / "test" / "good" / "000.png", late)

    pack_if_changed(open_store(str(images)), lines, "strip", "auto", add_late)
    assert pack_if_changed(open_store(str(images)), lines, "strip", "auto").counts["test/ok"] == 7


def test_a_damaged_record_counts_for_nothing(images: Path, lines: Store) -> None:
    pack_from(open_store(str(images)), lines, "strip", "auto")
    lines.put("strip/source.json", b"{")
    assert read_source(lines, "strip") is None
    assert pack_if_changed(open_store(str(images)), lines, "strip", "auto").counts["test/ok"] == 6


def test_images_that_were_added_are_not_packed_again(tmp_path: Path, strips: Path) -> None:
    lines, folder = open_store(str(tmp_path / "lines")), tmp_path / "strips"
    shutil.copytree(strips, folder)
    images = open_store(str(folder))
    pack_from(images, lines, "strip", "auto")
    (folder / "test" / "good" / "new.png").write_bytes((folder / "test" / "good" / "000.png").read_bytes() + b"\0")
    added = add_from(images, lines, "strip", "auto")
    assert added.counts["test/ok"] == 7
    assert pack_if_changed(images, lines, "strip", "auto") == added
    elsewhere = tmp_path / "today" / "test" / "good"
    elsewhere.mkdir(parents=True)
    (elsewhere / "today.png").write_bytes((folder / "test" / "good" / "001.png").read_bytes() + b"\0")
    more = add_from(open_store(str(tmp_path / "today")), lines, "strip", "auto")
    assert more.counts["test/ok"] == 8
    assert pack_if_changed(images, lines, "strip", "auto") == more
