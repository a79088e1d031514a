"""Names, images and memory: what users' ids and many flags must not break."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from raybench.data.shards import ImageRow
from raybench.errors import InputError, UnknownName
from raybench.report.annotations.item import AnnotatedImage, SourcePicture, Task, safe_stem
from raybench.report.annotations.write import FORMATS, write
from tests.support.made_masks import item

HOSTILE = [
    "../../etc/passwd",
    "/absolute.png",
    "a\x00b.png",
    "<img src=x onerror=alert(1)>.png",
    "\"'`$(touch x);&.png",
    "Risse/Größe–漢字🧨.png",
    "x" * 4096 + ".png",
    "Scratch.png",
    "scratch.png",
    "CON",
    "..",
    "",
    "a\nb\r\n=cmd|' /C calc'!A0",
    "e\u0301.png",
    "\u00e9.png",
    "\ud800.png",
]
MANY = 30_000
GROWTH = 6e6
"""Bytes, for all of them: 200 each, less than a flag kept in memory takes."""


@settings(deadline=None)
@given(st.integers(1, 10**7), st.text())
def test_file_names_are_safe(rank: int, image_id: str) -> None:
    stem = safe_stem(rank, image_id)
    assert re.fullmatch(r"\d{6,8}-[A-Za-z0-9_]{1,60}-[0-9a-f]{8}", stem)


def test_hostile_ids_stay_in_the_folder_and_are_told_apart(tmp_path: Path) -> None:
    mask = np.eye(9, 12, dtype=np.bool_)
    found = [item(mask, rank, image_id) for rank, image_id in enumerate(HOSTILE, start=1)]
    done = write(found, tmp_path / "out" / "strip", FORMATS, 'night: <"strip">')
    assert (done.images, done.outlined, done.regions) == (len(HOSTILE), len(HOSTILE), len(HOSTILE))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["strip"]
    files = sorted(path.name for path in (done.folder / "images").iterdir())
    assert len({name.lower() for name in files}) == len(HOSTILE)
    index = [json.loads(line) for line in (done.folder / "images.jsonl").read_text().splitlines()]
    assert [entry["image_id"] for entry in index] == HOSTILE
    assert sorted(entry["file"] for entry in index) == files
    coco = COCO(str(done.folder / "coco.json"))
    assert [coco.imgs[rank]["source_id"] for rank in sorted(coco.imgs)] == HOSTILE


def test_a_folder_with_annotations_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "strip").mkdir()
    with pytest.raises(InputError, match="already there"):
        write([], tmp_path / "strip", ["coco"], "night")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="already there"):
        write([], tmp_path / "link", ["coco"], "night")
    with pytest.raises(UnknownName, match="did you mean 'coco'"):
        write([], tmp_path / "other", ["cocoo"], "night")


def test_half_an_export_does_not_stand(tmp_path: Path) -> None:
    def breaks() -> Iterator[AnnotatedImage]:
        yield item(np.eye(5, dtype=np.bool_))
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        write(breaks(), tmp_path / "strip", FORMATS, "night")
    assert list(tmp_path.iterdir()) == []


def test_without_images_and_without_regions(tmp_path: Path) -> None:
    done = write([item(np.zeros((5, 6), np.bool_))], tmp_path / "strip", FORMATS, "night", images=False)
    assert (done.images, done.outlined, done.regions) == (1, 0, 0)
    assert not (done.folder / "images").exists()
    assert COCO(str(done.folder / "coco.json")).anns == {}
    empty = write([], tmp_path / "empty", FORMATS, "night")
    assert json.loads((empty.folder / "label_studio.json").read_text()) == []


def row(image: bytes, height: int, width: int) -> ImageRow:
    return ImageRow("a.png", image, "a.png", None, None, "strip", "test", "ng", "", "", height, width, "")


def encoded(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], format_: str, orientation: int = 1) -> bytes:
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    options = {"exif": exif} if orientation != 1 else {}
    Image.fromarray(pixels).save(sink, format_, **options)
    return sink.getvalue()


@pytest.mark.parametrize(("format_", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("BMP", ".bmp")])
def test_images_are_kept_byte_by_byte(format_: str, suffix: str) -> None:
    data = encoded(np.full((4, 6, 3), 200, np.uint8), format_)
    assert SourcePicture.of(row(data, 4, 6), 255) == SourcePicture(data, suffix, 4, 6, True)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_images_are_written_turned(format_: str, orientation: int) -> None:
    """Bright where it lies once turned, and no EXIF that could turn it again."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    height, width = (16, 32) if orientation == 3 else (32, 16)
    found = SourcePicture.of(row(encoded(pixels, format_, orientation), height, width), 255)
    with Image.open(io.BytesIO(found.data)) as shown:
        assert (shown.format, shown.size) == ("PNG", (width, height))
        assert shown.getexif().get(274) is None
        turned = np.asarray(shown.convert("L"))
    bright = turned[-4:, -4:] if orientation == 3 else turned[:4, -4:]
    assert bright.min() > 200
    assert not found.original


def test_deep_images_are_written_as_they_are_seen() -> None:
    _, data = cv2.imencode(".png", np.full((4, 6), 2048, np.uint16))
    found = SourcePicture.of(row(data.tobytes(), 4, 6), 4095)
    pixels = np.asarray(cv2.imdecode(np.frombuffer(found.data, np.uint8), cv2.IMREAD_UNCHANGED))
    assert pixels.dtype == np.uint8
    assert set(pixels.ravel().tolist()) == {128}
    assert not found.original


def test_many_flags_in_bounded_memory(tmp_path: Path) -> None:
    """The process does not grow between the first thousand and the last. One image in a hundred has regions, or the
    test would take minutes."""
    mask = np.zeros((24, 32), np.bool_)
    mask[4:9, 5:20] = mask[15:22, 20:30] = True
    clean = np.zeros_like(mask)
    picture = SourcePicture(b"not looked at", ".png", 24, 32, True)
    process, grown = psutil.Process(), []

    def made() -> Iterator[AnnotatedImage]:
        for rank in range(1, MANY + 1):
            if rank % 1000 == 0:
                grown.append(process.memory_info().rss)
            task = Task(rank, "strip", f"test/{rank}.png", "unknown", 1.0, "likely a defect")
            yield AnnotatedImage(task, picture, clean if rank % 100 else mask, "padim")

    done = write(made(), tmp_path / "strip", ("coco", "label-studio", "cvat"), "night", images=False)
    assert (done.images, done.outlined, done.regions) == (MANY, MANY // 100, MANY // 50)
    assert max(grown) - grown[0] < GROWTH
    assert (done.folder / "images.jsonl").read_text().count("\n") == MANY
    assert (done.folder / "cvat.xml").read_text().count("<image ") == MANY
