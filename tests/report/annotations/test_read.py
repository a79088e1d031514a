"""Labels come back from each tool's file, and change what they should."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from raybench.cli import main
from raybench.data.decode import decode_mask
from raybench.data.line import Line
from raybench.data.pack import PackOptions, add, pack
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import InputError, LabelError
from raybench.report.annotations.labelled import inside
from raybench.report.annotations.read import import_labels, read_labels
from raybench.store import open_store
from tests.support.made_masks import Mask, exported, iou, masks, union

SEVERAL = st.lists(masks(), min_size=2, max_size=2)
SHAPES = settings(max_examples=25, deadline=None)
LEAST_IOU = 0.95
FILES = {"coco": "coco.json", "cvat": "cvat.xml", "label-studio": "label_studio.json", "yolo": "", "masks": "masks"}


def taken_over(file: Path) -> None:
    """Make annotations of predictions, as Label Studio does when a person accepts them."""
    tasks = json.loads(file.read_text())
    for task in tasks:
        found = task.pop("predictions", [{"result": []}])
        person = {"completed_by": {"email": "a@b.c"}, "updated_at": "2026-11-27T10:00:00Z", "was_cancelled": False}
        task["annotations"] = [{"result": found[0]["result"], **person}]
    file.write_text(json.dumps(tasks))


@pytest.mark.parametrize("name", FILES)
@SHAPES
@given(wanted=SEVERAL)
def test_masks_come_back_from_every_format(name: str, wanted: list[Mask]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        items = exported(wanted, Path(folder), name)
        file = Path(folder, "strip", FILES[name])
        if name == "label-studio":
            taken_over(file)
        found = {each.name: each for each in read_labels(file)}
        for item, mask in zip(items, wanted, strict=True):
            image = next(found[key] for key in (item.task.image_id, item.file, item.stem) if key in found)
            parts = [region.draw(*mask.shape) for region in image.regions if region.draw]
            drawn = union(parts, mask.shape)
            assert iou(drawn, mask) >= LEAST_IOU or np.count_nonzero(drawn != mask) == 1
            assert {region.kind for region in image.regions} == {""}
            assert image.by == ("a@b.c" if name == "label-studio" else "")


@given(masks())
def test_coco_run_lengths_are_read_as_pycocotools_writes_them(mask: Mask) -> None:
    packed: dict[str, Any] = dict(coco_masks.encode(np.asfortranarray(mask)))
    height, width = mask.shape
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 7,
        "segmentation": packed | {"counts": packed["counts"].decode()},
    }
    content = {
        "categories": [{"id": 7, "name": "scratch"}],
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [annotation],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "labels.json")
        file.write_text(json.dumps(content, default=list))
        [image] = read_labels(file)
    [region] = image.regions
    assert region.kind == "scratch"
    assert region.draw is not None
    assert np.array_equal(region.draw(height, width), mask)
    with pytest.raises(InputError, match="pixels, the image has"):
        region.draw(height + 1, width)


@given(st.lists(st.tuples(st.floats(-3, 12), st.floats(-3, 12)), min_size=3, max_size=8))
def test_a_polygon_has_the_pixels_whose_centres_it_holds(points: list[tuple[float, float]]) -> None:
    found = inside(np.array(points), 8, 9)
    for row in range(8):
        for column in range(9):
            x, y = column + 0.5, row + 0.5
            crossed = False
            for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
                if (ay <= y) != (by <= y):
                    at = ax + (y - ay) * (bx - ax) / (by - ay)
                    if abs(at - x) < 1e-9:
                        return  # on the line: either side is right
                    crossed ^= at < x
            assert found[row, column] == crossed


@pytest.fixture
def line(strips: Path, tmp_path: Path) -> Line:
    lines = open_store(str(tmp_path / "store")).sub("lines")
    return Line(lines, pack(open_store(str(strips)), lines, "strip", PackOptions(shard_rows=4)))


def rows(line: Line) -> dict[str, ImageRow]:
    return {row.image_id: row for shard in line.manifest.shards for row in read_rows(line.store, shard, images=False)}


def decisions(folder: Path, *found: Sequence[str]) -> Path:
    file = folder / "decisions.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_id", "decision", "defect_type", "decided_by"])
        writer.writerows(found)
    return file


OK, NG, TRAINED = "test/good/000.png", "test/scratch/000.png", "train/good/003.png"


def test_decisions_change_labels_and_nothing_else(line: Line, tmp_path: Path) -> None:
    before = rows(line)
    file = decisions(
        tmp_path,
        (OK, "ng", "dent", "mia"),
        (NG, "OK", "", "mia"),
        ("test/good/001.png", "unsure", "", "mia"),
        ("test/good/002.png", "bad picture", "", ""),
        ("test/good/003.png", "ok", "", ""),
    )
    rehearsed = import_labels(line, file, rehearse=True)
    assert rows(Line.open(line.store, "strip")) == before
    found = import_labels(line, file, by="tom")
    assert (found.steps, found.unchanged, found.left) == (rehearsed.steps, 1, 1)
    assert found.steps == {"OK → NG": 1, "NG → OK": 1, "left out": 1}
    assert not found.trains
    again = Line.open(line.store, "strip")
    after = rows(again)
    assert (after[OK].label, after[OK].defect_type, after[OK].mask) == ("ng", "dent", None)
    assert (after[NG].label, after[NG].defect_type, after[NG].mask) == ("ok", "", None)
    assert after["test/good/002.png"].label == "unknown"
    changed = {OK, NG, "test/good/002.png"}
    assert {name: row for name, row in after.items() if name not in changed} == {
        name: row for name, row in before.items() if name not in changed
    }
    assert dict(again.counts) == {"train/ok": 24, "test/ok": 5, "test/ng": 6, "test/unknown": 1}
    assert again.manifest.masks == line.manifest.masks - 1
    assert again.manifest.training_digest == line.manifest.training_digest
    assert [shard.pixels for shard in again.manifest.shards] == [shard.pixels for shard in line.manifest.shards]
    [change] = again.manifest.changes
    assert (change.by, change.what, change.before) == ("tom", "3 labels from decisions.csv", line.manifest.digest)
    assert import_labels(again, file).changes == ()
    assert Line.open(line.store, "strip").manifest.changes == (change,)


def test_the_report_s_decisions_are_of_several_lines(line: Line, tmp_path: Path) -> None:
    row = rows(line)[OK]
    file = tmp_path / "decisions-night.csv"
    header = "line,image_id,sha256,label,decision,defect_type,note,decided_by,decided_at,run\r\n"
    mine = f'strip,{OK},{row.sha256},ok,ng,dent,"a ""deep"" one",mia,2026-11-27T10:00:00Z,night\r\n'
    other = "bottle,test/good/999.png,,ok,ng,,,mia,2026-11-27T10:00:00Z,night\r\n"
    file.write_text(header + mine + other, newline="")
    found = import_labels(line, file)
    assert (found.steps, found.left) == ({"OK → NG": 1}, 1)
    assert (found.changes[0].correction.by, found.changes[0].correction.at) == ("mia", "2026-11-27T10:00:00Z")
    file.write_text(header + other, newline="")
    with pytest.raises(InputError, match="has labels of bottle, and none of strip"):
        import_labels(line, file)
    file.write_text(header + mine.replace(row.sha256, "0" * 64), newline="")
    with pytest.raises(LabelError, match="another file"):
        import_labels(found.line, file)


def test_a_training_image_that_is_ng_trains_again(line: Line, tmp_path: Path) -> None:
    found = import_labels(line, decisions(tmp_path, (TRAINED, "ng", "", "")))
    assert found.trains
    assert found.line.manifest.train_ok == 23
    assert found.line.manifest.training_digest != line.manifest.training_digest


def test_every_fault_is_named_and_nothing_is_changed(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    for name, shape in ((OK, (9, 9)), ("test/good/nowhere.png", (200, 320))):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full(shape, 255, np.uint8))
    with pytest.raises(LabelError, match="nowhere"):
        import_labels(line, folder)
    (folder / "test" / "good" / "nowhere.png").unlink()
    with pytest.raises(LabelError, match=r"1 problem\n  - test/good/000.png: .*9"):
        import_labels(line, folder)
    with pytest.raises(LabelError, match="labelled twice"):
        import_labels(line, decisions(tmp_path, (OK, "ng", "", ""), (OK, "ok", "", "")))
    with pytest.raises(InputError, match="row 2: 'maybe' is no decision"):
        import_labels(line, decisions(tmp_path, (OK, "maybe", "", "")))
    assert Line.open(line.store, "strip").manifest == line.manifest


def test_an_export_that_nobody_has_worked_on_is_no_label(line: Line, tmp_path: Path) -> None:
    wanted = [np.ones((200, 320), np.bool_)]
    [item] = exported(wanted, tmp_path, "coco", "masks", "yolo")
    assert item.task.image_id == "1.png"
    with pytest.raises(InputError, match="nobody has worked on it"):
        import_labels(line, tmp_path / "strip" / "coco.json")
    for part in ("masks", ""):
        assert import_labels(line, tmp_path / "strip" / part).changes == ()


def test_an_empty_mask_is_ok_only_if_one_says_so(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    cv2.imwrite(str(folder / "000.png"), np.zeros((200, 320), np.uint8))
    with pytest.raises(LabelError, match=r"may be any of test/good/000.png, test/scratch/000.png"):
        import_labels(line, folder, empty="ok")
    (folder / "scratch").mkdir()
    (folder / "000.png").rename(folder / "scratch" / "000.png")
    assert import_labels(line, folder).left == 1
    assert import_labels(line, folder, empty="ok").steps == {"NG → OK": 1}


def test_labels_are_kept_when_the_line_is_packed_again(line: Line, strips: Path, tmp_path: Path) -> None:
    marked = np.zeros((200, 320), np.uint8)
    marked[50:60, 50:90] = 255
    path = tmp_path / "masks" / OK
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), marked)
    labelled = import_labels(line, tmp_path / "masks").line
    options = PackOptions(shard_rows=5)  # so that the images lie in other shards
    again = Line(line.store, pack(open_store(str(strips)), line.store, "strip", options))
    row = rows(again)[OK]
    assert (row.label, row.mask is not None) == ("ng", True)
    assert np.array_equal(decode_mask(row.mask or b"", 200, 320), marked > 0)
    assert again.counts == labelled.counts
    assert again.manifest.changes == labelled.manifest.changes


def test_new_images_are_added_in_shards_of_their_own(line: Line, strips: Path, tmp_path: Path) -> None:
    labelled = import_labels(line, decisions(tmp_path, (OK, "ng", "", ""))).line
    folder = tmp_path / "grown"
    for path in strips.rglob("*.png"):
        target = folder / path.relative_to(strips)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    new = folder / "test" / "good" / "100.png"
    new.write_bytes((strips / "test" / "good" / "001.png").read_bytes() + b"\0")
    (folder / NG).write_bytes((strips / "test" / "good" / "002.png").read_bytes())
    manifest = add(open_store(str(folder)), line.store, "strip", PackOptions(shard_rows=4))
    assert set(labelled.manifest.shards) < set(manifest.shards)
    grown = rows(Line(line.store, manifest))
    assert grown.keys() - rows(labelled).keys() == {"test/good/100.png"}
    assert grown[OK].label == "ng"
    assert manifest.counts["test/ok"] == labelled.counts["test/ok"] + 1
    assert [(reject.path, reject.reason) for reject in manifest.rejects] == [(NG, "other_image")]
    assert manifest.findings == ()  # its label came back, so that the folder need not know it
    assert add(open_store(str(folder)), line.store, "strip") == manifest
    assert manifest.changes[-1].what.startswith("1 images added from")
    assert manifest.training_digest == line.manifest.training_digest
    assert add(open_store(str(strips)), line.store, "strip") == manifest


def test_the_command(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = decisions(tmp_path, (OK, "ng", "", "mia"))

    def call(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["raybench", "labels", *arguments])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    assert "would change 1 OK → NG" in call("import", line.uri, str(file), "--dry-run")
    assert call("log", line.uri).strip() == "nothing since it was packed"
    said = call("import", line.uri, str(file))
    assert "strip: changed 1 OK → NG" in said
    assert "trains nothing" in said
    assert "1 label from decisions.csv, given by mia" in call("log", line.uri)
