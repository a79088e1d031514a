"""Regions of interest: where folders name them, how they are packed, and what becomes of files that do not fit."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raybench.data import layouts
from raybench.data.cache import open_cached, put_prefetched
from raybench.data.corrections import Correction
from raybench.data.decode import decode_image, decode_mask, encode_mask
from raybench.data.geometry import GREY, InputFit, to_network, to_source
from raybench.data.inspection.properties import Properties, measure_shard
from raybench.data.labels import correct_labels
from raybench.data.line import Line, decode_inside
from raybench.data.manifest import Change, Manifest, has_other_regions, read_manifest
from raybench.data.masks import open_annotations
from raybench.data.pack import PackOptions, add, pack
from raybench.data.roi import kept_in_network, roi_of
from raybench.data.roi_files import RoiFile
from raybench.data.shards import ImageRow, read_rows
from raybench.data.source import pack_from, pack_if_changed
from raybench.errors import IntegrityError, LabelError, LineError
from raybench.metrics.masks import Mask
from raybench.metrics.roi import Roi
from raybench.store import Store, open_store

REGION = np.zeros((200, 320), bool)
REGION[20:180, 15:290] = True
OTHER = np.zeros((200, 320), bool)
OTHER[:, 100:] = True
Bools = npt.NDArray[np.bool_]


def draw(path: Path, region: Bools) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_mask(region))
    return path


def packed(source: Path, lines: Store, options: PackOptions | None = None) -> Manifest:
    return pack(open_store(str(source)), lines, "strip", options)


def is_region(found: Bools | None, expected: Bools) -> bool:
    return found is not None and np.array_equal(found, expected)


def rows_of(lines: Store, manifest: Manifest) -> dict[str, ImageRow]:
    return {row.image_id: row for shard in manifest.shards for row in read_rows(lines, shard)}


def regions(lines: Store, manifest: Manifest) -> dict[str, Bools | None]:
    return {
        image_id: None if row.roi is None else decode_mask(row.roi, row.height, row.width)
        for image_id, row in rows_of(lines, manifest).items()
    }


def reasons(manifest: Manifest) -> dict[str, str]:
    return {reject.path: reject.reason for reject in manifest.rejects}


def test_a_line_without_regions_is_packed_as_ever(source: Path, lines: Store) -> None:
    manifest = packed(source, lines)
    assert manifest.roi is None
    assert b'"roi"' not in lines.get("strip/manifest.json")
    for shard in manifest.shards:
        assert "roi" not in pq.ParquetFile(Path(lines.uri(shard.key).removeprefix("file://"))).schema_arrow.names
    assert set(regions(lines, manifest).values()) == {None}


def as_folder(source: Path) -> Path:
    """The strips in the layout `folder`."""
    folder = source.with_name("folder")
    shutil.copytree(source / "train" / "good", folder / "ok")
    shutil.copytree(source / "test" / "good", folder / "test_ok")
    shutil.copytree(source / "test" / "scratch", folder / "ng" / "scratch")
    return folder


def as_csv(source: Path, **cells: str) -> Path:
    """The strips with a table. cells: of the column `roi`, by path."""
    found = [(path.relative_to(source).as_posix(), path.parts[-2]) for path in sorted(source.glob("t*/*/*.png"))]
    with (source / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "label", "roi"])
        for path, kind in found:
            label = "ok" if kind == "good" else "ng"
            writer.writerow([path, path.partition("/")[0], label, cells.get(path, cells.get("every", ""))])
    return source


@pytest.mark.parametrize("name", ["roi.png", "ROI.bmp"])
@pytest.mark.parametrize("layout", [lambda source: source, as_folder, as_csv])
def test_one_region_counts_for_all_images(
    layout: Callable[[Path], Path], name: str, source: Path, lines: Store
) -> None:
    folder = layout(source)
    cv2.imwrite(str(folder / name), REGION.astype(np.uint8) * 255)
    manifest = packed(folder, lines)
    assert manifest.rejects == ()
    assert [finding.kind for finding in manifest.findings if "row" in finding.kind] == (
        ["images in no row"] if layout is as_csv else []
    )
    found = regions(lines, manifest)
    assert len(found) == sum(manifest.counts.values())
    assert all(is_region(region, REGION) for region in found.values())
    assert manifest.roi is not None
    assert manifest.roi.images == len(found)
    assert manifest.roi.kept == pytest.approx(REGION.mean())
    assert manifest.roi.shared
    assert read_manifest(lines, "strip") == manifest
    assert {row.roi_path for row in rows_of(lines, manifest).values()} == {name}


def test_a_region_named_beside_the_folder(source: Path, lines: Store, tmp_path: Path) -> None:
    draw(source / "roi.png", OTHER)
    named = RoiFile("region.png", encode_mask(REGION))
    manifest = packed(source, lines, PackOptions(roi=named))
    assert reasons(manifest) == {"roi.png": "roi_unused"}
    assert all(is_region(region, REGION) for region in regions(lines, manifest).values())


def test_a_region_is_part_of_the_identities_of_its_images(source: Path, lines: Store) -> None:
    none = packed(source, lines)
    draw(source / "roi.png", REGION)
    one = packed(source, lines)
    draw(source / "roi.png", OTHER)
    other = packed(source, lines)
    assert has_other_regions(none, one)
    assert has_other_regions(one, other)
    assert not has_other_regions(one, one)
    for name in ("digest", "training_digest", "images_digest"):
        assert len({getattr(manifest, name) for manifest in (none, one, other)}) == 3
    for shards in zip(none.shards, one.shards, other.shards, strict=True):
        assert len({shard.pixels for shard in shards}) == 3
    draw(source / "roi" / "test" / "good" / "000.png", REGION)
    mixed = packed(source, lines)  # a test image alone has another region
    assert mixed.training_digest == other.training_digest
    assert mixed.digest != other.digest
    assert mixed.roi is not None
    assert mixed.roi.shared == ""


@pytest.mark.parametrize("layout", ["mvtec", "folder"])
def test_images_have_regions_of_their_own(layout: str, source: Path, lines: Store) -> None:
    folder = source if layout == "mvtec" else as_folder(source)
    first, second, third = {
        "mvtec": ("train/good/000.png", "test/scratch/000.png", "train/good/023.png"),
        "folder": ("ok/000.png", "ng/scratch/000.png", "ok/023.png"),
    }[layout]
    draw(folder / "roi" / first, REGION)
    draw((folder / "Roi" / second).with_suffix(".bmp"), OTHER)
    draw(folder / "roi" / "023.png", OTHER)  # by the name alone
    draw(folder / "roi" / "nobody.png", OTHER)
    manifest = packed(folder, lines, PackOptions(layout=layout))
    assert reasons(manifest) == {"roi/nobody.png": "roi_unused"}
    found = {image_id: region for image_id, region in regions(lines, manifest).items() if region is not None}
    assert found.keys() == {first, second, third}
    assert is_region(found[first], REGION)
    assert is_region(found[second], OTHER)
    assert manifest.roi is not None
    assert (manifest.roi.images, manifest.roi.shared) == (3, "")
    [finding] = [finding for finding in manifest.findings if finding.kind == "no region of interest"]
    assert f"all of {len(regions(lines, manifest)) - 3} images" in finding.detail
    assert f"{second}" not in finding.path


def test_an_own_region_comes_before_that_of_all(source: Path, lines: Store) -> None:
    draw(source / "roi.png", REGION)
    draw(source / "roi" / "train" / "good" / "000.png", OTHER)
    found = regions(lines, manifest := packed(source, lines))
    assert is_region(found["train/good/000.png"], OTHER)
    assert sum(is_region(region, REGION) for region in found.values()) == len(found) - 1
    assert manifest.findings == ()


def test_a_name_that_several_images_have_is_no_ones(source: Path, lines: Store) -> None:
    draw(source / "roi" / "000.png", REGION)
    assert reasons(packed(source, lines)) == {"roi/000.png": "roi_ambiguous"}


def test_a_table_names_regions(source: Path, lines: Store) -> None:
    draw(source / "left.png", REGION)
    draw(source / "right.png", OTHER)
    cells = {"every": "left.png", "train/good/001.png": "right.png", "train/good/002.png": ""}
    cells |= {"train/good/003.png": "gone.png", "train/good/004.png": "../elsewhere.png"}
    manifest = packed(as_csv(source, **cells), lines)
    assert reasons(manifest) == {"train/good/003.png": "roi_missing", "train/good/004.png": "roi_outside"}
    found = regions(lines, manifest)
    assert "train/good/003.png" not in found
    assert is_region(found["train/good/001.png"], OTHER)
    assert found["train/good/002.png"] is None
    assert is_region(found["train/good/000.png"], REGION)
    assert manifest.attributes == ()


def test_one_file_named_by_all_rows_is_the_lines(source: Path, lines: Store) -> None:
    draw(source / "left.png", REGION)
    manifest = packed(as_csv(source, every="left.png"), lines)
    assert manifest.roi is not None
    assert manifest.roi.shared


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_mask(REGION[1:]), "roi_size"),
        (b"no image", "roi_unreadable"),
        (b"", "roi_unreadable"),
        (encode_mask(np.zeros_like(REGION)), "roi_empty"),
        (
            cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (200, 320), np.uint8))[1].tobytes(),
            "roi_picture",
        ),
    ],
)
def test_an_image_whose_region_cannot_be_used_is_left_out(data: bytes, reason: str, source: Path, lines: Store) -> None:
    """Packed without it, what lies outside would count."""
    path = source / "roi" / "train" / "good" / "000.png"
    draw(path, REGION).write_bytes(data)
    manifest = packed(source, lines)
    assert reasons(manifest) == {"train/good/000.png": reason, "roi/train/good/000.png": reason}
    for reject in manifest.rejects:
        assert "roi/train/good/000.png" in reject.path + reject.detail
        assert "mask" not in reject.detail
    assert "train/good/000.png" not in regions(lines, manifest)
    assert manifest.train_ok == 23


def test_images_of_another_size_than_the_region_of_all_are_left_out(source: Path, lines: Store) -> None:
    good = source / "train" / "good"
    cv2.imwrite(str(good / "000.png"), np.zeros((100, 160, 3), np.uint8))
    draw(source / "roi.png", REGION)
    manifest = packed(source, lines)
    assert reasons(manifest) == {"train/good/000.png": "roi_size"}
    assert "200x320" in manifest.rejects[0].detail
    assert "100x160" in manifest.rejects[0].detail


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_bytes(b"no image"), "not a PNG"),
        (lambda path: draw(path, np.zeros_like(REGION)), "marks nothing"),
        (lambda path: shutil.copy(draw(path, REGION), path.with_suffix(".bmp")), "several regions"),
    ],
)
def test_a_region_of_all_that_cannot_be_used_ends_packing(
    write: Callable[[Path], object], words: str, source: Path, lines: Store
) -> None:
    write(source / "roi.png")
    with pytest.raises(LineError, match=words):
        packed(source, lines)
    assert list(lines.list()) == []


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_region_drawn_on_stored_pixels_is_turned_with_its_image(
    orientation: int, source: Path, lines: Store, tmp_path: Path
) -> None:
    """As masks are: an image that EXIF turns, and a file of the size before."""
    exif = Image.Exif()
    exif[274] = orientation
    path = source / "train" / "good" / "000.png"
    Image.open(path).save(path, exif=exif)
    draw(source / "roi" / "train" / "good" / "000.png", REGION)
    found = regions(lines, packed(source, lines))["train/good/000.png"]
    expected = {3: REGION[::-1, ::-1], 6: np.rot90(REGION, -1)}[orientation]
    assert found is not None
    assert np.array_equal(found, expected)


def test_a_defect_outside_the_region_is_told(source: Path, lines: Store) -> None:
    region, truth = REGION.copy(), np.zeros_like(REGION)
    truth[2:9, 2:9] = True
    draw(source / "ground_truth" / "scratch" / "000_mask.png", truth)
    truth[50:60, 50:60] = True
    draw(source / "ground_truth" / "scratch" / "002_mask.png", truth)
    truth[:5, 250:260] = True
    draw(source / "roi.png", region)
    manifest = packed(source, lines)
    found = {finding.path: finding.detail for finding in manifest.findings}
    assert "whole mask lies outside" in found["test/scratch/000.png"]
    assert "1 of its 2 outlined defects" in found["test/scratch/002.png"]
    assert manifest.masks == 6


def test_annotations_are_cut_to_the_region(source: Path, lines: Store, tmp_path: Path) -> None:
    """A mask that lies outside whole leaves an NG image with an unknown defect, not one without a defect."""
    truth = np.zeros_like(REGION)
    truth[2:9, 2:9] = True
    draw(source / "ground_truth" / "scratch" / "000_mask.png", truth)
    truth[15:60, 50:60] = True
    draw(source / "ground_truth" / "scratch" / "002_mask.png", truth)
    draw(source / "roi.png", REGION)
    manifest = packed(source, lines)
    [shard] = manifest.scored_shards
    for _ in range(2):  # prepared, and from the cache
        annotations = open_annotations(lines, shard, tmp_path)
        found = {annotations[at].image_id: annotations[at] for at in range(len(annotations))}
        assert all(each.roi == Roi.of(REGION) for each in found.values())
        assert len({id(each.roi) for each in found.values()}) == 1
        outside, cut, good = (found[f"test/{name}"] for name in ("scratch/000.png", "scratch/002.png", "good/000.png"))
        assert (outside.mask, outside.has_mask, outside.label) == (None, False, "ng")
        assert cut.mask is not None
        assert good.mask is not None
        expected = Mask.of(truth & REGION)
        assert np.array_equal(cut.mask.pixels, expected.pixels)
        assert cut.mask.areas.tolist() == [10 * 40]
        assert good.mask.normal == REGION.sum()


@pytest.mark.parametrize("mode", ["native", "squash", "letterbox"])
def test_detectors_see_grey_outside(mode: str, source: Path, lines: Store, tmp_path: Path) -> None:
    draw(source / "roi.png", REGION)
    draw(source / "roi" / "test" / "good" / "000.png", OTHER)
    manifest = packed(source, lines)
    fit, [shard] = InputFit(mode, 64, 96), manifest.scored_shards
    ahead = open_store(str(tmp_path / "ahead"))
    first = open_cached(lines, manifest, shard, fit, tmp_path)
    put_prefetched(first, ahead)
    (tmp_path / "there").mkdir()
    for cached in (first, open_cached(lines, manifest, shard, fit, tmp_path / "there", prefetched=ahead)):
        regions_of = dict(zip(cached.image_ids, cached.rois, strict=True))
        assert regions_of["test/good/000.png"] == Roi.of(OTHER)
        assert regions_of["test/good/001.png"] == Roi.of(REGION)
        for at, row in enumerate(read_rows(lines, shard)):
            image, inside = decode_image(row.image), OTHER if row.image_id == "test/good/000.png" else REGION
            image[~inside] = GREY
            assert np.array_equal(cached.batch([at])[0], to_network(image, fit))
            assert np.array_equal(decode_inside(row, manifest), image)


def test_samples_are_whole_and_have_their_region(source: Path, lines: Store) -> None:
    draw(source / "roi.png", REGION)
    packed(source, lines)
    for sample in Line.open(lines, "strip").images(splits=["test"]):
        assert np.array_equal(sample.pixels, cv2.imread(str(source / sample.image_id))[..., ::-1])  # type: ignore[index]
        assert sample.roi is not None
        assert np.array_equal(sample.roi, REGION)


def grown(source: Path, lines: Store, options: PackOptions | None = None) -> Manifest:
    """Add one new image, which is of the folder alone."""
    image = np.asarray(cv2.imread(str(source / "test" / "good" / "000.png")))
    new = source.with_name("new")
    (new / "test" / "good").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(new / "test" / "good" / "new.png"), image // 2)
    return add(open_store(str(new)), lines, "strip", options)


def test_added_images_have_the_region_of_the_line(source: Path, lines: Store) -> None:
    draw(source / "roi.png", REGION)
    before = packed(source, lines)
    after = grown(source, lines)
    assert sum(after.counts.values()) == 37
    assert after.roi is not None
    assert before.roi is not None
    assert after.roi == replace(before.roi, images=37)
    assert not has_other_regions(before, after)
    assert all(is_region(region, REGION) for region in regions(lines, after).values())
    draw(source.with_name("new") / "roi.png", REGION)
    assert grown(source, lines).roi == after.roi
    draw(source.with_name("new") / "roi.png", OTHER)
    with pytest.raises(LineError, match="another region of interest"):
        grown(source, lines)
    with pytest.raises(LineError, match="another region of interest"):
        grown(source, lines, PackOptions(roi=RoiFile("other.png", encode_mask(OTHER))))


def test_a_line_without_a_region_takes_none_by_adding(source: Path, lines: Store) -> None:
    packed(source, lines)
    draw(source.with_name("new") / "roi.png", REGION)
    with pytest.raises(LineError, match="has no region of interest"):
        grown(source, lines)


def test_a_region_that_the_folder_has_changed_is_told_when_images_are_added(source: Path, lines: Store) -> None:
    draw(source / "roi" / "train" / "good" / "000.png", REGION)
    packed(source, lines)
    draw(source / "roi" / "train" / "good" / "000.png", OTHER)
    after = add(open_store(str(source)), lines, "strip")
    assert {finding.path: finding.kind for finding in after.findings}[
        "train/good/000.png"
    ] == "other region of interest"


def test_labels_that_come_back_keep_regions(source: Path, lines: Store) -> None:
    draw(source / "roi.png", REGION)
    before = packed(source, lines)
    row = rows_of(lines, before)["test/good/000.png"]
    correction = Correction(row.image_id, row.sha256, "ng", "dent", encode_mask(REGION), "me", "now", "x.csv")
    after = correct_labels(lines, before, [correction], Change("now", "me", "a label", before.digest))
    assert after.roi == before.roi
    assert regions(lines, after).keys() == regions(lines, before).keys()
    assert all(is_region(region, REGION) for region in regions(lines, after).values())
    assert rows_of(lines, packed(source, lines))["test/good/000.png"].label == "ng"


def test_a_region_that_is_dropped_is_told(source: Path, lines: Store) -> None:
    draw(source / "roi.png", REGION)
    packed(source, lines)
    (source / "roi.png").unlink()
    assert [finding.kind for finding in packed(source, lines).findings] == ["region of interest dropped"]
    assert packed(source, lines).findings == ()


def test_a_line_packed_with_a_region_beside_its_folder_is_not_packed_without(
    source: Path, lines: Store, tmp_path: Path
) -> None:
    folder, file = open_store(str(source)), RoiFile("region.png", encode_mask(REGION))
    manifest = pack_from(folder, lines, "strip", layouts.AUTO, roi=file)
    assert pack_if_changed(folder, lines, "strip", layouts.AUTO) == manifest
    shutil.copy(source / "train" / "good" / "000.png", source / "train" / "good" / "more.png")
    with pytest.raises(LineError, match="--roi"):
        pack_if_changed(folder, lines, "strip", layouts.AUTO)


def test_a_region_that_the_folder_gets_packs_the_line_again(source: Path, lines: Store) -> None:
    folder = open_store(str(source))
    assert pack_if_changed(folder, lines, "strip", layouts.AUTO).roi is None
    draw(source / "roi.png", REGION)
    assert pack_if_changed(folder, lines, "strip", layouts.AUTO).roi is not None


def measured(lines: Store, manifest: Manifest) -> list[Properties]:
    return [measure_shard(lines, manifest, shard) for shard in manifest.shards]


def test_only_the_region_is_inspected(source: Path, lines: Store) -> None:
    """Pixels outside change nothing that is measured of an image; a region of all of it is measured as none."""
    draw(source / "roi.png", REGION)
    before = measured(lines, packed(source, lines))
    for path in source.glob("t*/*/*.png"):
        image = np.asarray(cv2.imread(str(path)))
        image[~REGION] = np.random.default_rng(0).integers(0, 256, image.shape)[~REGION]
        cv2.imwrite(str(path), image)
    after = measured(lines, packed(source, lines))
    for first, second in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(first.table, second.table)
        assert np.array_equal(first.fingerprints, second.fingerprints)
    manifest = packed(source, lines, PackOptions(roi=RoiFile("all.png", encode_mask(np.ones_like(REGION)))))
    whole = measured(lines, manifest)
    (source / "roi.png").unlink()
    for first, second in zip(whole, measured(lines, packed(source, lines)), strict=True):
        pd.testing.assert_frame_equal(
            first.table.drop(columns="sharpness"), second.table.drop(columns="sharpness"), rtol=1e-6
        )
        assert np.abs(first.table["sharpness"] - second.table["sharpness"]).max() < 0.05  # without the border
        assert np.array_equal(first.fingerprints, second.fingerprints)


def test_a_label_whose_mask_lies_outside_is_refused(source: Path, lines: Store) -> None:
    """Where the line gets its region later, it is told."""
    manifest = packed(source, lines)
    row = rows_of(lines, manifest)["test/good/000.png"]
    correction = Correction(row.image_id, row.sha256, "ng", "dent", encode_mask(~REGION), "me", "now", "x.csv")
    correct_labels(lines, manifest, [correction], Change("now", "me", "a label", manifest.digest))
    draw(source / "roi.png", REGION)
    manifest = packed(source, lines)
    assert [(finding.path, finding.kind) for finding in manifest.findings] == [
        ("test/good/000.png", "defect outside the region of interest")
    ]
    other = rows_of(lines, manifest)["test/good/001.png"]
    correction = replace(correction, image_id=other.image_id, sha256=other.sha256)
    with pytest.raises(LabelError, match="outside its region of interest"):
        correct_labels(lines, manifest, [correction], Change("now", "me", "a label", manifest.digest))


@pytest.mark.parametrize("region", [encode_mask(REGION[1:]), encode_mask(np.zeros_like(REGION)), b"no image"])
def test_a_region_that_packing_never_writes_is_damage(
    region: bytes, source: Path, lines: Store, tmp_path: Path
) -> None:
    draw(source / "roi.png", REGION)
    row = next(iter(rows_of(lines, packed(source, lines)).values()))
    with pytest.raises(IntegrityError, match=f"{row.image_id} of strip: its region of interest"):
        roi_of(replace(row, roi=region))


@pytest.mark.parametrize(("size", "pixel"), [((20, 279), (13, 7)), ((279, 20), (7, 13))])
def test_a_small_region_is_kept_where_one_axis_shrinks_and_the_other_grows(
    size: tuple[int, int], pixel: tuple[int, int]
) -> None:
    inside = np.zeros(size, bool)
    inside[pixel] = True
    fit = InputFit("squash", *((100, 36) if size[0] < size[1] else (36, 100)))
    kept = kept_in_network(Roi.of(inside), fit)
    assert kept.any()
    assert not to_source(np.where(kept, 0, 1).astype(np.float32), fit, *size)[pixel]
