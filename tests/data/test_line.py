from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybench.data import line as line_module
from raybench.data.decode import decode_image, decode_mask
from raybench.data.line import Line, decode_row, rewritten_images
from raybench.data.manifest import Label, Split
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, LineError, RejectedImage
from raybench.store import Store, open_store
from tests.support.images import png_without_pixels


@pytest.fixture(scope="module")
def folder(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line in small shards, with images of every split and label."""
    folder = tmp_path_factory.mktemp("line")
    images = Path(shutil.copytree(strips, folder / "images"))
    table = ["path,split,label,mask,defect_type,group"]
    for number, path in enumerate(sorted(images.glob("*/*/*.png"))):
        kind, name = path.parts[-2:]
        if path.parts[-3] == "ground_truth":
            continue
        split = "unlabelled" if number % 5 == 0 else path.parts[-3]
        label, mask = ("ok", "") if kind == "good" else ("ng", f"ground_truth/{kind}/{name[:-4]}_mask.png")
        table.append(
            f"{path.relative_to(images).as_posix()},{split},{label},{mask},{kind if mask else ''},part {number // 3}"
        )
    (images / "table.csv").write_text("\n".join(table))
    pack(open_store(str(images)), open_store(str(folder / "lines")), "strip", PackOptions(shard_rows=4))
    return folder


@pytest.fixture(scope="module")
def line(folder: Path) -> Line:
    return Line.open(open_store(str(folder / "lines")), "strip")


@pytest.fixture(scope="module")
def rows(line: Line) -> list[ImageRow]:
    return [row for shard in line.manifest.shards for row in read_rows(line.store, shard)]


def test_images_are_the_decoded_rows_in_the_order_of_the_shards(line: Line, rows: list[ImageRow]) -> None:
    samples = list(line.images())
    assert len(samples) == sum(line.manifest.counts.values()) == 36
    for sample, row in zip(samples, rows, strict=True):
        for name in ("image_id", "split", "label", "defect_type", "group", "height", "width"):
            assert getattr(sample, name) == getattr(row, name)
        assert np.array_equal(sample.pixels, decode_image(row.image))
        assert sample.pixels.shape == (sample.height, sample.width, 3)
        if row.mask is None:
            assert sample.mask is None
        else:
            assert sample.mask is not None
            assert np.array_equal(sample.mask, decode_mask(row.mask, row.height, row.width))
    assert {(sample.split, sample.label) for sample in samples} >= {("train", "ok"), ("test", "ng"), ("test", "ok")}
    assert sum(sample.mask is not None for sample in samples) == line.manifest.masks > 0


def subsets_of(values: Collection[str]) -> st.SearchStrategy[set[str]]:
    return st.sets(st.sampled_from(sorted(values)))


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_keep_what_matches_all_of_them(line: Line, rows: list[ImageRow], data: st.DataObject) -> None:
    known = [row.image_id for row in rows]
    ids = data.draw(st.none() | subsets_of([*known, "no/such.png", ""]))
    splits = data.draw(st.none() | subsets_of(get_args(Split)))
    labels = data.draw(st.none() | subsets_of(get_args(Label)))
    expected = [
        row.image_id
        for row in rows
        if (ids is None or row.image_id in ids)
        and (splits is None or row.split in splits)
        and (labels is None or row.label in labels)
    ]
    assert [sample.image_id for sample in line.images(ids, splits, labels)] == expected  # type: ignore[arg-type]


def test_no_image_bytes_are_read_of_shards_without_a_match(
    line: Line, rows: list[ImageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ID is in the second shard: metadata of two shards, images of one, nothing of the others."""
    opened: list[tuple[str, bool]] = []

    def watched(lines, shard, *, images=True, only=None):  # type: ignore[no-untyped-def]
        opened.append((shard.key, images))
        return read_rows(lines, shard, images=images, only=only)

    monkeypatch.setattr(line_module, "read_rows", watched)
    first, second = (shard.key for shard in line.manifest.shards[:2])
    assert [sample.image_id for sample in line.images([rows[5].image_id])] == [rows[5].image_id]
    assert opened == [(first, False), (second, False), (second, True)]
    opened.clear()
    assert list(line.images([])) == []
    assert opened == []


def test_sixteen_bit_images_are_scaled_by_the_lines_white(tmp_path: Path) -> None:
    (tmp_path / "images" / "ok").mkdir(parents=True)
    for name, value in (("a", 1000), ("b", 500)):
        cv2.imwrite(str(tmp_path / "images" / "ok" / f"{name}.png"), np.full((20, 30), value, np.uint16))
    lines = open_store(str(tmp_path / "lines"))
    line = Line(lines, pack(open_store(str(tmp_path / "images")), lines, "deep"))
    assert line.manifest.white_level == 1023
    assert [int(sample.pixels.max()) for sample in line.images()] == [249, 125]


def test_a_line_that_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(LineError, match="not packed"):
        Line.open(open_store(str(tmp_path)), "none")


@pytest.fixture
def damaged(line: Line, tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "lines"))
    for item in line.store.list():
        store.put(item.key, line.store.get(item.key))
    shard = store.get(line.manifest.shards[0].key)
    store.put(line.manifest.shards[0].key, shard[: len(shard) // 2])
    return store


def test_a_damaged_shard(damaged: Store) -> None:
    with pytest.raises(IntegrityError, match="is damaged"):
        list(Line.open(damaged, "strip").images())


def test_an_image_that_cannot_be_decoded_is_named(line: Line, rows: list[ImageRow]) -> None:
    broken = ImageRow(**(vars(rows[0]) | {"image": png_without_pixels(20, 30)}))
    with pytest.raises(RejectedImage, match=f"{rows[0].image_id} of strip: "):
        decode_row(broken, line.manifest)
    with pytest.raises(IntegrityError, match="pixels, its row says 9x320"):
        decode_row(ImageRow(**(vars(rows[0]) | {"height": 9})), line.manifest)


def test_images_of_other_bytes_are_named(strips: Path, tmp_path: Path) -> None:
    lines = []
    for at, name in enumerate(("then", "now")):
        images = Path(shutil.copytree(strips, tmp_path / name))
        if at:
            path = next(iter(sorted(images.glob("test/good/*.png"))))
            path.write_bytes(path.read_bytes() + b"0")  # bytes after its end do not change a picture
        store = open_store(str(tmp_path / f"packed-{name}"))
        pack(open_store(str(images)), store, "strip", PackOptions(shard_rows=4))
        lines.append(Line.open(store, "strip"))
    assert rewritten_images(*lines) == {"test/good/000.png"}
    assert rewritten_images(lines[0], lines[0]) == set()
