"""A line whose labels change: its identities, its history, and two programs at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench.data.corrections import Correction
from raybench.data.labels import correct_labels, set_aside
from raybench.data.manifest import Change, Label, Manifest, read_manifest, read_state, write_manifest
from raybench.data.masks import open_annotations
from raybench.data.pack import PackOptions, add, pack
from raybench.data.shards import read_rows
from raybench.errors import LabelError, LineError
from raybench.metrics.sampling import permanent_numbers
from raybench.store import Store, open_store

TRAINED, TESTED = "train/good/1.png", "test/good/1.png"


def put_image(folder: Path, name: str, value: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 9), value, np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for value, name in enumerate((TRAINED, "train/good/2.png", TESTED, "test/bent/1.png")):
        put_image(tmp_path / "images", name, value)
    return tmp_path / "images"


@pytest.fixture
def lines(images: Path, tmp_path: Path) -> Store:
    lines = open_store(str(tmp_path / "store")).sub("lines")
    pack(open_store(str(images)), lines, "strip")
    return lines


def correction(lines: Store, manifest: Manifest, image_id: str, label: Label) -> Correction:
    rows = [row for shard in manifest.shards for row in read_rows(lines, shard, only={image_id})]
    return Correction(image_id, rows[0].sha256, label, "", None, "mia", "", "a.csv")


def labelled(lines: Store, manifest: Manifest, image_id: str, label: Label) -> Manifest:
    change = Change("2026-11-27", "mia", f"{image_id} is {label}", manifest.digest)
    return correct_labels(lines, manifest, [correction(lines, manifest, image_id, label)], change)


def labels(lines: Store) -> dict[str, str]:
    shards = read_manifest(lines, "strip").shards
    return {row.image_id: row.label for shard in shards for row in read_rows(lines, shard)}


def test_a_detector_depends_on_which_training_images_are_ok_and_on_no_other_label(lines: Store) -> None:
    packed = read_manifest(lines, "strip")
    ng = labelled(lines, packed, TRAINED, "ng")
    unknown = labelled(lines, ng, TRAINED, "unknown")
    ok = labelled(lines, unknown, TRAINED, "ok")
    tested = labelled(lines, ok, TESTED, "ng")
    assert packed.training_digest != ng.training_digest == unknown.training_digest
    assert packed.training_digest == ok.training_digest == tested.training_digest
    assert len({each.digest for each in (packed, ng, unknown, ok, tested)}) == 5


def test_which_labels_count_although_they_came_later(tmp_path: Path) -> None:
    """Unlabelled images are a pool, those added later another; one counts once all with smaller numbers are seen."""
    folder, lines = tmp_path / "images", open_store(str(tmp_path / "store")).sub("lines")
    names = [f"unlabelled/{letter}.png" for letter in "abcdefgh"]
    for value, name in enumerate(("ok/1.png", "ok/2.png", "ng/1.png", *names)):
        put_image(folder, name, value)
    source = open_store(str(folder))
    line = pack(source, lines, "strip")
    ordered = [names[index] for index in np.argsort(permanent_numbers(names))]

    def counted(manifest: Manifest) -> set[str]:
        opened = (open_annotations(lines, shard, tmp_path, manifest.reach(shard)) for shard in manifest.scored_shards)
        rows = (row for annotations in opened for row in annotations.rows)
        return {row["image_id"] for row in rows if row["is_counted"] and row["label"] != "unknown"}

    for name in (*ordered[:4], ordered[6]):
        line = labelled(lines, line, name, "ok")
    assert counted(line) == {"ng/1.png"}  # too few are seen in order
    fair = [replace(correction(lines, line, ordered[6], "ok"), representative=True)]
    line = correct_labels(lines, line, fair, Change("2026-11-27", "mia", "nobody chose it", line.digest))
    assert counted(line) == {"ng/1.png", ordered[6]}
    line = labelled(lines, line, ordered[6], "ok")  # somebody did, after all
    line = labelled(lines, line, ordered[4], "unknown")  # a bad picture has been looked at
    assert counted(line) == {"ng/1.png", *ordered[:4]}
    assert line.sampled == {"0": permanent_numbers([ordered[5]])[0]}
    put_image(folder, "unlabelled/new.png", 200)
    assert counted(add(source, lines, "strip")) == {"ng/1.png", *ordered[:4]}
    line = labelled(lines, read_manifest(lines, "strip"), ordered[5], "ng")
    line = labelled(lines, line, ordered[7], "ng")
    assert line.sampled == {"0": 1.0}
    assert counted(line) == {"ng/1.png", *ordered} - {ordered[4]}
    assert pack(source, lines, "strip").sampled == {}  # the new image is in the same pool, and early in it


def test_an_image_that_is_labelled_by_moving_its_file_is_told(tmp_path: Path) -> None:
    folder, lines = tmp_path / "images", open_store(str(tmp_path / "store")).sub("lines")
    for value, name in enumerate(("ok/1", "ok/2", "ng/1", "unlabelled/a", "unlabelled/b")):
        put_image(folder, f"{name}.png", value)
    source = open_store(str(folder))
    assert pack(source, lines, "strip").findings == ()
    (folder / "unlabelled/a.png").rename(folder / "ng/a.png")
    put_image(folder, "unlabelled/c.png", 100)
    added = add(source, lines, "strip")
    assert [(each.path, each.reason) for each in added.rejects] == [("ng/a.png", "same_image")]
    assert added.counts["unlabelled/unknown"] == 3
    again = pack(source, lines, "strip")
    assert [(each.path, each.kind) for each in again.findings] == [("ng/a.png", "labelled by moving it")]


def test_of_two_programs_that_label_at_once_one_is_refused(lines: Store) -> None:
    packed = read_manifest(lines, "strip")
    first = labelled(lines, packed, TESTED, "ng")
    with pytest.raises(LabelError, match="at the same time"):
        labelled(lines, packed, TRAINED, "ng")
    write_manifest(lines, packed)  # as if the first had been stopped before it wrote the manifest
    with pytest.raises(LabelError, match="at the same time"):
        labelled(lines, packed, TRAINED, "ng")
    assert read_manifest(lines, "strip") == first
    labelled(lines, first, TRAINED, "ng")
    assert labels(lines)[TESTED] == labels(lines)[TRAINED] == "ng"


def test_an_earlier_state_goes_by_its_digest(lines: Store, images: Path) -> None:
    packed = read_manifest(lines, "strip")
    first = labelled(lines, packed, TESTED, "ng")
    second = labelled(lines, first, TESTED, "ok")
    for state in (packed, first, second):
        assert read_state(lines, "strip", state.digest[:8]) == state
        assert read_state(lines, "strip", state.digest) == state
    with pytest.raises(LineError, match=f"no such states; it has .*{second.digest[:12]}"):
        read_state(lines, "strip", "0000000")
    put_image(images, TRAINED, 77)
    pack(open_store(str(images)), lines, "strip")
    with pytest.raises(LineError, match="packed again since"):
        read_state(lines, "strip", first.digest[:8])


def test_two_programs_that_add_at_once_write_two_shards(lines: Store, tmp_path: Path) -> None:
    packed = read_manifest(lines, "strip")
    options = PackOptions(layout="mvtec")
    sources = [tmp_path / "third", tmp_path / "fourth"]
    for number, folder in enumerate(sources, start=3):
        put_image(folder, f"test/good/{number}.png", 10 * number)
    add(open_store(str(sources[0])), lines, "strip", options)
    write_manifest(lines, packed)  # the second has read the line before the first was done
    with pytest.raises(LabelError, match="at the same time"):
        add(open_store(str(sources[1])), lines, "strip", options)
    assert labels(lines).keys() == {TRAINED, "train/good/2.png", TESTED, "test/bent/1.png", "test/good/3.png"}
    add(open_store(str(sources[1])), lines, "strip", options)
    assert {"test/good/3.png", "test/good/4.png"} <= labels(lines).keys()


def test_packing_again_keeps_labels_history_and_says_no_when_they_would_be_lost(lines: Store, images: Path) -> None:
    source = open_store(str(images))
    first = labelled(lines, read_manifest(lines, "strip"), TESTED, "ng")
    kept = {item.key for item in lines.list("strip/") if "/labels/" in item.key or "/history/" in item.key}
    assert len(kept) == 3
    assert pack(source, lines, "strip") == first
    assert kept <= {item.key for item in lines.list("strip/")}
    lines.put("strip/manifest.json", b"{}")
    with pytest.raises(LineError, match="they would be lost"):
        pack(source, lines, "strip")


def test_what_adding_finds_is_told_without_a_new_image_and_forgotten_when_it_is_mended(
    lines: Store, images: Path
) -> None:
    source, packed = open_store(str(images)), read_manifest(lines, "strip")
    put_image(images, "ground_truth/bent/1_mask.png", 255)
    (images / "test/good/3.png").write_bytes(b"cut off")
    told = add(source, lines, "strip")
    assert [finding.kind for finding in told.findings] == ["other mask"]
    assert [reject.path for reject in told.rejects] == ["test/good/3.png"]
    assert read_manifest(lines, "strip") == packed
    put_image(images, "test/good/2.png", 7)
    assert [reject.path for reject in add(source, lines, "strip").rejects] == ["test/good/3.png"]
    put_image(images, "test/good/3.png", 8)
    assert add(source, lines, "strip").rejects == ()


def test_a_bad_picture_that_nobody_had_labelled_is_set_aside_once(images: Path, lines: Store) -> None:
    options = PackOptions(layout="images")
    packed = pack(open_store(str(images)), lines, "loose", options)
    left_out = labelled(lines, packed, TESTED, "unknown")
    assert set_aside(lines, packed.shards) == set()
    assert set_aside(lines, left_out.shards) == {TESTED}
    assert left_out.counts == packed.counts
    assert labelled(lines, left_out, TESTED, "unknown") is left_out
    assert pack(open_store(str(images)), lines, "loose", options) == left_out
