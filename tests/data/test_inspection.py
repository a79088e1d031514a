from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from raybench.cli.demo import Sizes, write_strips
from raybench.data.decode import encode_mask
from raybench.data.inspection.inspection import (
    Inspection,
    bad_images,
    inspect,
    inspection_key,
    read_inspection,
    write_inspection,
)
from raybench.data.manifest import Manifest, read_manifest
from raybench.data.pack import PackOptions, pack
from raybench.data.shards import describe, read_rows, write_shard
from raybench.store import Store, open_store
from tests.support.images import png_without_pixels

Image = npt.NDArray[np.uint8]
PLANTED = {
    "train/good/000.png": ("blur", lambda image: cv2.GaussianBlur(image, (0, 0), 1.5)),
    "train/good/001.png": ("dark", lambda image: image * 0.4),
    "test/good/000.png": ("over-exposed", lambda image: np.minimum(image * 2.0, 255)),
    "train/good/002.png": ("low information", lambda image: np.full_like(image, 140)),
    "train/good/003.png": ("odd size", lambda image: cv2.resize(image, None, fx=0.8, fy=0.8)),
    "train/good/004.png": ("odd shape", lambda image: image.swapaxes(0, 1)),
    "test/good/001.png": ("odd colours", lambda image: image * np.array([1.0, 0.9, 0.8])),
}


def alter(path: Path, change: Callable[[Image], npt.NDArray[np.generic]]) -> None:
    image = np.asarray(cv2.imread(str(path)), np.uint8)
    assert cv2.imwrite(str(path), np.asarray(change(image), np.uint8))


def inspected(source: Path, folder: Path, options: PackOptions | None = None, threads: int = 1) -> Inspection:
    lines = open_store(str(folder))
    return inspect(lines, pack(open_store(str(source)), lines, "strip", options), threads)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a line with nothing wrong: 60 OK to train on, 20 OK and 12 NG to test."""
    return write_strips(tmp_path_factory.mktemp("clean"), Sizes(60, 20, 12, 0))


@pytest.fixture
def source(clean: Path, tmp_path: Path) -> Path:
    """A copy of it, to spoil."""
    return Path(shutil.copytree(clean, tmp_path / "images"))


@pytest.fixture(scope="module")
def spoilt(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """With one fault of every kind, and four images that are there twice."""
    folder = tmp_path_factory.mktemp("spoilt")
    source = Path(shutil.copytree(clean, folder / "images"))
    for name, (_, change) in PLANTED.items():
        alter(source / name, change)
    good = source / "train" / "good"
    shutil.copy(good / "010.png", good / "another_name.png")
    image = np.asarray(cv2.imread(str(good / "011.png")))
    cv2.imwrite(str(good / "again.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    shutil.copy(good / "012.png", source / "test" / "good" / "leaked.png")
    cv2.imwrite(str(source / "test" / "good" / "leaked_as_bmp.bmp"), np.asarray(cv2.imread(str(good / "013.png"))))
    return inspected(source, folder / "lines")


def test_a_clean_line_has_no_issue(clean: Path, tmp_path: Path) -> None:
    found = inspected(clean, tmp_path)
    assert (found.issues, found.traits, found.groups, found.drifted) == ((), (), (), ())
    assert found.images == 92
    assert found.counts == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(spoilt: Inspection, name: str) -> None:
    kind, _ = PLANTED[name]
    kinds = {issue.kind for issue in spoilt.issues if issue.image_id == name}
    assert kind in kinds


def test_nothing_else_is_called_a_fault(spoilt: Inspection) -> None:
    leaked = {"test/good/leaked.png", "test/good/leaked_as_bmp.bmp"}
    assert set(bad_images(spoilt)) == {*PLANTED, *leaked}
    assert {issue.image_id for issue in spoilt.issues if issue.kind == "leak"} == leaked
    side_effects = {"low information", "dark", "over-exposed", "blur"}  # what has no light has no detail either
    for issue in spoilt.issues:
        if issue.kind != "leak" and issue.kind != PLANTED[issue.image_id][0]:
            assert issue.kind in side_effects


def test_copies_are_grouped(spoilt: Inspection) -> None:
    groups = {tuple(copy.image_id for copy in group.copies): group.kind for group in spoilt.groups}
    assert groups == {
        ("train/good/010.png", "train/good/another_name.png"): "exact",
        ("train/good/011.png", "train/good/again.jpg"): "near",
        ("test/good/leaked.png", "train/good/012.png"): "exact",
        ("test/good/leaked_as_bmp.bmp", "train/good/013.png"): "exact",
    }
    assert spoilt.counts["exact duplicates"] == 6
    assert spoilt.counts["near duplicates"] == 2
    assert spoilt.counts["leak"] == 2


def test_reasons_are_in_words(spoilt: Inspection) -> None:
    reasons = bad_images(spoilt)
    assert reasons["train/good/001.png"].startswith("dark: brightest parts 0.30; half of the line's images have 0.7")
    assert "times as wide as this line's usually are" in reasons["train/good/000.png"]
    assert reasons["test/good/leaked.png"].endswith(
        "leak: has the same pixels as train/good/012.png, which is trained on"
    )
    assert "odd colours: colour; 99% of the line's images are grey" in reasons["test/good/001.png"]


def test_a_copy_that_was_altered_before_it_leaked_is_found(source: Path, tmp_path: Path) -> None:
    image = np.asarray(cv2.imread(str(source / "train" / "good" / "005.png")))
    brighter = np.asarray(np.minimum(image * 1.2, 255), np.uint8)
    cv2.imwrite(str(source / "test" / "good" / "brighter.jpg"), brighter, [cv2.IMWRITE_JPEG_QUALITY, 80])
    found = inspected(source, tmp_path / "lines")
    leak = next(issue for issue in found.issues if issue.kind == "leak")
    assert leak.image_id == "test/good/brighter.jpg"
    assert 0.9 < leak.score < 1
    assert "is nearly the same image as train/good/005.png" in leak.detail


def test_the_same_pixels_with_two_labels_are_named(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "test" / "good" / "003.png", source / "test" / "scratch" / "twin.png")
    (source / "ground_truth" / "scratch").mkdir(exist_ok=True)
    shutil.copy(
        source / "ground_truth" / "scratch" / "000_mask.png", source / "ground_truth" / "scratch" / "twin_mask.png"
    )
    found = inspected(source, tmp_path / "lines")
    assert {issue.image_id: issue.detail for issue in found.issues if issue.kind == "two labels"} == {
        "test/good/003.png": "labelled ok, and test/scratch/twin.png, with the same pixels, ng",
        "test/scratch/twin.png": "labelled ng, and test/good/003.png, with the same pixels, ok",
    }


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("dark", lambda image: image * 0.2),
        ("over-exposed", lambda image: 246 + image * 0.03),
        ("low information", lambda image: np.where(image > 100, 255, 0)),
    ],
)
def test_what_a_whole_line_is_like_is_no_fault(
    source: Path, tmp_path: Path, kind: str, change: Callable[[Image], npt.NDArray[np.generic]]
) -> None:
    """Dark field, bright field, binarised: said once, of the line."""
    for path in [*(source / "train").rglob("*.png"), *(source / "test").rglob("*.png")]:
        alter(path, change)
    found = inspected(source, tmp_path / "lines")
    assert kind not in found.counts
    trait = next(trait for trait in found.traits if trait.kind == kind)
    assert trait.share > 0.9
    assert len(trait.examples) == 5


def test_twelve_bit_lines_are_seen_as_eight_bit_ones(source: Path, tmp_path: Path) -> None:
    names = [*(source / "train").rglob("*.png"), *(source / "test").rglob("*.png")]
    for path in names:
        grey = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint16)
        cv2.imwrite(str(path), grey * 16 + 15)
    shallow = source / "train" / "good" / "007.png"
    cv2.imwrite(str(shallow), np.asarray(np.asarray(cv2.imread(str(shallow), cv2.IMREAD_UNCHANGED)) // 16, np.uint8))
    found = inspected(source, tmp_path / "lines")
    assert {issue.image_id: (issue.kind, issue.detail) for issue in found.issues} == {
        "train/good/007.png": ("odd colours", "grey; 99% of the line's images are grey, 16 bit")
    }


def test_drift_between_splits_is_found(source: Path, tmp_path: Path) -> None:
    for path in (source / "test" / "good").glob("*.png"):
        alter(path, lambda image: image * 0.9)
    found = inspected(source, tmp_path / "lines")
    assert {drift.name for drift in found.drifted} >= {"mean brightness"}
    assert {drift.split for drift in found.drifted} == {"test"}


def test_the_same_images_give_the_same_inspection(source: Path, tmp_path: Path) -> None:
    alter(source / "train" / "good" / "000.png", lambda image: image * 0.3)
    shutil.copy(source / "train" / "good" / "005.png", source / "test" / "good" / "copy.png")
    first = inspected(source, tmp_path / "first")
    second = inspected(source, tmp_path / "second", PackOptions(shard_rows=7), threads=3)
    assert replace(second, line_digest=first.line_digest) == first


def test_a_line_too_small_to_compare_is_inspected(tmp_path: Path) -> None:
    source = write_strips(tmp_path / "images", Sizes(3, 1, 2, 0))
    alter(source / "train" / "good" / "000.png", lambda image: image * 0.1)
    found = inspected(source, tmp_path / "lines")
    assert {trait.kind for trait in found.traits} == {"dark", "low information"}  # one of six is more than a tenth
    assert found.drifts == ()


def test_an_image_that_cannot_be_decoded_is_an_issue(tmp_path: Path) -> None:
    """Packing cannot see it, as it does not decode PNGs; see docs/hostile-input.md."""
    source = write_strips(tmp_path / "images", Sizes(9, 1, 1, 0))
    bad = source / "train" / "good" / "003.png"
    bad.write_bytes(png_without_pixels(200, 320))
    found = inspected(source, tmp_path / "lines", PackOptions(shard_rows=1))  # one shard holds nothing else
    assert [(issue.image_id, issue.kind) for issue in found.issues] == [("train/good/003.png", "unreadable")]
    assert (found.images, found.counts) == (11, {"unreadable": 1})
    assert bad_images(found)["train/good/003.png"].startswith("unreadable: ")


def test_a_line_that_cannot_be_read_at_all_is_inspected(tmp_path: Path) -> None:
    good = tmp_path / "images" / "train" / "good"
    good.mkdir(parents=True)
    (good / "0.png").write_bytes(png_without_pixels(20, 30))
    lines = open_store(str(tmp_path / "lines"))
    manifest = pack(open_store(str(tmp_path / "images")), lines, "strip", PackOptions(layout="mvtec"))
    assert inspect(lines, manifest).counts == {"unreadable": 1}


@pytest.fixture
def line(clean: Path, tmp_path: Path) -> tuple[Store, Manifest]:
    lines = open_store(str(tmp_path / "line"))
    return lines, pack(open_store(str(clean)), lines, "strip")


def test_an_inspection_is_read_as_it_was_written(line: tuple[Store, Manifest], spoilt: Inspection) -> None:
    lines, manifest = line
    assert read_inspection(lines, manifest) is None
    here = replace(spoilt, line_digest=manifest.digest)
    write_inspection(lines, here)
    assert read_inspection(lines, manifest) == here


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": 1}', b"\xff\xfe"])
def test_a_damaged_inspection_is_none(line: tuple[Store, Manifest], damage: bytes) -> None:
    lines, manifest = line
    lines.put(inspection_key("strip"), damage)
    assert read_inspection(lines, manifest) is None


@pytest.mark.parametrize(("was", "now"), [(b'"version": 2', b'"version": 1'), (b'"strip"', b'"other"'), (b"", b"0")])
def test_an_inspection_of_other_images_or_rules_is_none(
    line: tuple[Store, Manifest], spoilt: Inspection, was: bytes, now: bytes
) -> None:
    """Another version, another line; and, where nothing is replaced, another digest."""
    lines, manifest = line
    digest = manifest.digest if was else now.decode() * 64
    write_inspection(lines, replace(spoilt, line_digest=digest))
    if was:
        lines.put(inspection_key("strip"), lines.get(inspection_key("strip")).replace(was, now, 1))
    assert read_inspection(lines, manifest) is None


def test_masks_that_cannot_be_right(packed_once: Store, tmp_path: Path) -> None:
    """Of a line that an earlier version packed: this one refuses two of them."""
    manifest = read_manifest(packed_once, "strip")
    lines = open_store(str(tmp_path / "lines"))
    full, empty = encode_mask(np.ones((200, 320), np.bool_)), encode_mask(np.zeros((200, 320), np.bool_))
    shards = []
    for shard in manifest.shards:
        rows = [
            replace(row, mask=full if row.image_id.endswith("0.png") else empty)
            for row in read_rows(packed_once, shard)
        ]
        data = write_shard(rows)
        lines.put(shard.key, data)
        shards.append(describe(shard.key, shard.split, rows, data))
    found = inspect(lines, replace(manifest, shards=tuple(shards)))
    masked = {(issue.kind, issue.image_id) for issue in found.issues if "mask" in issue.kind}
    assert {("mask on an OK image", "test/good/000.png"), ("large mask", "test/scratch/000.png")} <= masked
    assert ("empty mask", "test/missing_hole/001.png") in masked
    assert not any(image_id == "test/good/001.png" for _, image_id in masked)
