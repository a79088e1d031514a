from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from raybench.data.decode import decode_mask
from raybench.data.line import Line
from raybench.data.manifest import Manifest, Reject, read_manifest, write_manifest
from raybench.data.pack import PackOptions, Progress, pack
from raybench.data.shards import read_rows
from raybench.errors import IntegrityError, LineError
from raybench.store import Store, open_store


def packed(source: Path, lines: Store, options: PackOptions | None = None) -> Manifest:
    return pack(open_store(str(source)), lines, "strip", options)


def test_every_image_is_kept_byte_for_byte(source: Path, lines: Store) -> None:
    manifest = packed(source, lines)
    rows = [row for shard in manifest.shards for row in read_rows(lines, shard)]
    assert len(rows) == 36
    for row in rows:
        assert row.image == (source / row.image_id).read_bytes()
        if row.label == "ng":
            assert row.mask == (source / str(row.mask_path)).read_bytes()
    assert (manifest.masks, manifest.median_height, manifest.median_width) == (6, 200, 320)
    assert read_manifest(lines, "strip") == manifest


def test_packing_twice_gives_the_same_bytes(source: Path, lines: Store, tmp_path: Path) -> None:
    first = packed(source, lines, PackOptions(shard_rows=5, readers=1))
    other = open_store(str(tmp_path / "other"))
    second = packed(source, other, PackOptions(shard_rows=5, readers=8))
    assert second == first
    assert second.digest == first.digest
    for item in lines.list():
        assert other.get(item.key) == lines.get(item.key)


def test_shards_are_of_one_split_and_bounded(source: Path, lines: Store) -> None:
    manifest = packed(source, lines, PackOptions(shard_rows=5))
    assert [shard.rows for shard in manifest.shards_of("train")] == [5, 5, 5, 5, 4]
    assert [shard.rows for shard in manifest.scored_shards] == [5, 5, 2]
    for shard in manifest.shards:
        assert {row.split for row in read_rows(lines, shard)} == {shard.split}


def test_pandas_opens_a_shard_as_it_is(source: Path, lines: Store, tmp_path: Path) -> None:
    shard = packed(source, lines).shards[0]
    table = pd.read_parquet(tmp_path / "lines" / shard.key)
    first = table.iloc[0]
    assert first["image"]["bytes"] == (source / first["image_id"]).read_bytes()
    assert set(first["image"]) == {"bytes", "path"}


def test_rejects_are_listed_and_the_rest_is_packed(source: Path, lines: Store) -> None:
    good = source / "train" / "good"
    (good / "000.png").write_bytes(b"")
    (good / "001.png").write_bytes((good / "001.png").read_bytes()[:-100])
    (good / "002.png").write_bytes(b"text")
    cv2.imwrite(str(source / "ground_truth" / "scratch" / "000_mask.png"), np.zeros((5, 5), np.uint8))
    manifest = packed(source, lines)
    assert {(reject.path, reject.reason) for reject in manifest.rejects} == {
        ("train/good/000.png", "empty_file"),
        ("train/good/001.png", "truncated"),
        ("train/good/002.png", "unreadable"),
        ("ground_truth/scratch/000_mask.png", "mask_size"),
    }
    assert dict(manifest.counts) == {"train/ok": 21, "test/ok": 6, "test/ng": 6}
    assert (manifest.masks, manifest.masks_rejected) == (5, 1)


def write_mask(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def test_a_mask_that_contradicts_its_label_is_refused(source: Path, lines: Store) -> None:
    truth = source / "ground_truth"
    blank = np.zeros((200, 320), np.uint8)
    marked = blank.copy()
    marked[5:9, 5:9] = 255
    write_mask(truth / "good" / "000.png", marked)
    write_mask(truth / "good" / "001.png", blank)
    write_mask(truth / "scratch" / "000_mask.png", blank)
    manifest = packed(source, lines)
    assert {(reject.path, reject.reason) for reject in manifest.rejects} == {
        ("ground_truth/good/000.png", "mask_on_ok"),
        ("ground_truth/scratch/000_mask.png", "mask_empty"),
    }
    rows = {row.image_id: row for shard in manifest.scored_shards for row in read_rows(lines, shard)}
    assert rows["test/good/000.png"].mask is None
    assert rows["test/good/001.png"].mask is not None
    assert rows["test/scratch/000.png"].mask is None
    assert len(rows) == 12


def test_a_mask_that_looks_inverted_is_told(source: Path, lines: Store) -> None:
    mask = np.full((200, 320), 255, np.uint8)
    mask[5:9, 5:9] = 0
    write_mask(source / "ground_truth" / "scratch" / "000_mask.png", mask)
    write_mask(source / "ground_truth" / "missing_hole" / "001_mask.png", np.full_like(mask, 255))
    manifest = packed(source, lines)
    assert [(one.path, one.kind) for one in manifest.findings] == [
        ("test/missing_hole/001.png", "large mask"),
        ("test/scratch/000.png", "large mask"),
    ]
    assert "inverted" in manifest.findings[1].detail
    assert read_manifest(lines, "strip") == manifest
    assert replace(manifest, findings=()).digest == manifest.digest


def test_several_files_are_one_mask(source: Path, lines: Store) -> None:
    folder = source / "ground_truth" / "scratch"
    whole = cv2.imread(str(folder / "000_mask.png"), cv2.IMREAD_GRAYSCALE)
    assert whole is not None
    (folder / "000_mask.png").unlink()
    columns = np.nonzero(whole)[1]
    left = np.where(np.arange(320) < np.median(columns), whole, 0).astype(np.uint8)
    write_mask(folder / "000" / "000.png", left // 255 * 236)
    write_mask(folder / "000" / "001.png", np.asarray(whole - left, np.uint8))
    manifest = packed(source, lines)
    assert (manifest.masks, manifest.rejects) == (6, ())
    [row] = [row for shard in manifest.scored_shards for row in read_rows(lines, shard, only=["test/scratch/000.png"])]
    assert row.mask is not None
    assert row.mask_path == "ground_truth/scratch/000"
    assert np.array_equal(decode_mask(row.mask, 200, 320), whole > 0)
    write_mask(folder / "000" / "002.png", np.zeros((5, 5), np.uint8))
    manifest = packed(source, lines)
    assert manifest.masks == 5
    assert {reject.path[-7:]: reject.reason for reject in manifest.rejects} == {
        "000.png": "mask_incomplete",
        "001.png": "mask_incomplete",
        "002.png": "mask_size",
    }


def test_a_group_in_train_and_test_is_told(source: Path, lines: Store) -> None:
    parts = {"train/good/000.png": "part 7", "train/good/001.png": "part 7", "train/good/002.png": "part 8",
             "train/good/003.png": "", "test/good/000.png": "part 7", "test/good/001.png": "",
             "test/good/002.png": "part 9"}  # fmt: skip
    table = [f"{path},{path.partition('/')[0]},ok,{part}" for path, part in parts.items()]
    (source / "table.csv").write_text("path,split,label,group\n" + "\n".join(table))
    manifest = pack(open_store(str(source)), lines, "strip", PackOptions(layout="csv", shard_rows=2))
    rows = [row for shard in manifest.shards for row in read_rows(lines, shard)]
    assert {row.image_id: row.group for row in rows} == parts
    [leak] = [finding for finding in manifest.findings if finding.kind == "group in train and test"]
    assert leak.path == "test/good/000.png"
    assert leak.detail.startswith("the group part 7 has 2 images in train and 1 in test, such as train/good/000.png;")


def test_rejects_do_not_change_the_identity_but_images_do(source: Path, lines: Store) -> None:
    manifest = packed(source, lines)
    with_reject = replace(manifest, rejects=(Reject("x", "y", "z"),), layout="folder")
    assert with_reject.digest == manifest.digest
    (source / "train" / "good" / "000.png").unlink()
    assert packed(source, lines).digest != manifest.digest


def test_shards_of_an_earlier_pack_are_removed(source: Path, lines: Store) -> None:
    packed(source, lines, PackOptions(shard_rows=5))
    manifest = packed(source, lines)
    about = {"strip/manifest.json", "strip/README.md"}
    assert {item.key for item in lines.list()} == about | {shard.key for shard in manifest.shards}


def test_an_inspection_outlives_packing_the_same_images_again(source: Path, lines: Store) -> None:
    packed(source, lines)
    lines.put("strip/quality.json", b"of these images")
    packed(source, lines)
    assert lines.get("strip/quality.json") == b"of these images"
    packed(source, lines, PackOptions(shard_rows=2))
    assert "strip/quality.json" not in {item.key for item in lines.list("strip/")}


def test_nothing_is_written_when_nothing_can_be_packed(source: Path, lines: Store) -> None:
    for path in source.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(LineError, match="rejected: 36 empty_file"):
        packed(source, lines)
    assert list(lines.list()) == []


def test_sixteen_bit_lines_know_their_white(source: Path, lines: Store) -> None:
    for path in (source / "train" / "good").glob("*.png"):
        cv2.imwrite(str(path), np.full((20, 30), 1000, np.uint16))
    assert packed(source, lines).white_level == 1023


def test_the_white_level_is_that_of_the_training_images(source: Path, lines: Store) -> None:
    """Neither test images nor single hot pixels change how training images look."""
    rng = np.random.default_rng(0)
    for path in source.glob("t*/*/*.png"):
        pixels = rng.integers(0, 1000, (200, 320)).astype(np.uint16)
        if path.stem == "000":
            pixels[7, 9] = 65535
        cv2.imwrite(str(path), pixels)
    assert (packed(source, lines).white_level, packed(source, lines).findings) == (1023, ())
    cv2.imwrite(str(source / "test" / "scratch" / "002.png"), np.full((200, 320), 4000, np.uint16))
    manifest = packed(source, lines)
    assert manifest.white_level == 1023
    assert [(one.path, one.kind) for one in manifest.findings] == [("test/scratch/002.png", "clipped")]
    for path in (source / "train" / "good").glob("*.png"):
        cv2.imwrite(str(path), np.full((200, 320), 100, np.uint8))
    assert packed(source, lines).white_level == 4095


def test_a_narrow_band_far_from_zero_is_spread(source: Path, lines: Store) -> None:
    rng = np.random.default_rng(0)
    for path in source.glob("t*/*/*.png"):
        cv2.imwrite(str(path), rng.integers(8000, 8501, (200, 320)).astype(np.uint16))
    manifest = packed(source, lines)
    assert (manifest.black_level, manifest.white_level) == (7500, 9000)
    assert replace(manifest, black_level=0).digest != manifest.digest
    assert read_manifest(lines, "strip") == manifest
    sample = next(iter(Line.open(lines, "strip").images()))
    assert (sample.pixels.min(), sample.pixels.max()) == (85, 170)


def test_images_for_another_line_keep_to_its_white(source: Path, lines: Store) -> None:
    path = source / "train" / "good" / "000.png"
    cv2.imwrite(str(path), np.full((20, 30), 1000, np.uint16))
    assert packed(source, lines, PackOptions(levels=(0, 4095))).white_level == 4095
    manifest = packed(source, lines, PackOptions(levels=(0, 255)))
    assert [(reject.path, reject.reason) for reject in manifest.rejects] == [("train/good/000.png", "too_deep")]
    cv2.imwrite(str(path), np.full((20, 30), 200, np.uint16))
    assert packed(source, lines, PackOptions(levels=(0, 255))).rejects == ()


def test_progress_counts_images_and_bytes(source: Path, lines: Store) -> None:
    seen: list[Progress] = []
    pack(open_store(str(source)), lines, "strip", progress=seen.append)
    assert [now.done for now in seen] == list(range(1, 37))
    assert {now.total for now in seen} == {36}


def test_packing_from_and_to_s3(source: Path, bucket: Store) -> None:
    for path in sorted(source.rglob("*.png")):
        bucket.put(f"images/{path.relative_to(source).as_posix()}", path.read_bytes())
    manifest = pack(bucket.sub("images"), bucket.sub("lines"), "strip")
    assert manifest.digest == packed(source, bucket.sub("again")).digest


def test_a_manifest_that_cannot_be_used(source: Path, lines: Store) -> None:
    with pytest.raises(LineError, match="not packed"):
        read_manifest(lines, "none")
    lines.put("bad/manifest.json", b"{}")
    with pytest.raises(IntegrityError, match="not a line manifest"):
        read_manifest(lines, "bad")
    write_manifest(lines, replace(packed(source, lines), schema_version=99))
    with pytest.raises(LineError, match="pack the line again"):
        read_manifest(lines, "strip")
