"""Files of annotation tools that are broken, made to mislead, or say something that is easily misread."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from raybench.data.decode import decode_mask
from raybench.data.line import Line
from raybench.data.pack import pack
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import InputError, LabelError
from raybench.report.annotations.read import import_labels, read_labels
from raybench.store import open_store

HEIGHT, WIDTH = 8, 9
TRIANGLE = [[10, 10], [90, 10], [90, 90]]  # percent


def coco(**changes: Any) -> dict[str, Any]:
    annotation = {"image_id": 1, "category_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5]]} | changes.pop("annotation", {})
    image = {"id": 1, "file_name": "good/1.png", "height": HEIGHT, "width": WIDTH} | changes.pop("image", {})
    return {"categories": [{"id": 7, "name": "dent"}], "images": [image], "annotations": [annotation]} | changes


def studio(*results: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    return [{"data": {"image": "/data/upload/3/0a1b2c3d-1.png"}, "annotations": [{"result": list(results)}]} | changes]


def outline(**changes: Any) -> dict[str, Any]:
    value = {"points": TRIANGLE, "polygonlabels": ["dent"]}
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "a", "type": "polygonlabels", "value": value} | size | changes


def cvat(shape: str) -> str:
    return f'<annotations><image name="good/1.png" width="{WIDTH}" height="{HEIGHT}">{shape}</image></annotations>'


JSON = {
    "a number": 3,
    "a list of numbers": [3],
    "images without list": {"images": None, "annotations": []},
    "categories": coco(categories=3),
    "an annotation of no image": coco(annotation={"image_id": 2}),
    "an annotation of no category": coco(annotation={"category_id": 2}),
    "two images of an ID": coco(images=[{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]),
    "an ID as text": coco(image={"id": "1"}),
    "half a point": coco(annotation={"segmentation": [[1, 2, 3]]}),
    "no number": coco(annotation={"segmentation": [[float("nan"), 2, 3, 4, 5, 6]]}),
    "a huge number": coco(annotation={"segmentation": [[10**400, 2, 3, 4, 5, 6]]}),
    "true as segmentation": coco(annotation={"segmentation": True}),
    "run lengths beyond 64 bits": coco(annotation={"segmentation": {"size": [8, 9], "counts": [2**62] * 4 + [72]}}),
    "an endless run length": coco(annotation={"segmentation": {"size": [8, 9], "counts": "o" * 99 + "\ud800"}}),
    "JSON-MIN": [{"image": "1.png", "verdict": "ok", "id": 1}],
    "annotations of the API": studio(annotations=[5]),
    "both labels": studio({"type": "choices", "value": {"choices": ["ok", "NG"]}}),
    "a turned image": studio(outline(image_rotation=90)),
    "the brush": studio({"type": "brushlabels", "value": {"rle": [1, 2]}}),
    "an outline of words": studio(outline(value={"points": ["a", "b"]})),
}
TEXTS = {
    "x.json": ["[" * 100_000, "", "\x00"],
    "x.csv": ["image_id,decision\na\n", 'image_id,decision\n"a', f"image_id,decision\n{'a' * 200_000},ok\n"],
    "x.xml": [
        cvat('<polygon points="1,2,3;4,5,6"/>'),
        cvat('<polygon points="1e308,1;-1e308,5;3,1e308"/>'),
        cvat('<mask rle="25" left="0" top="0" width="-5" height="-5"/>'),
        cvat('<tag label="ok"/><tag label="ng"/>'),
        "<annotations><track/></annotations>",
        '<!DOCTYPE a [<!ENTITY x "y">]><annotations/>',
    ],
}


def read(file: Path) -> None:
    for image in read_labels(file):
        for region in image.regions:
            if region.draw:
                region.draw(HEIGHT, WIDTH)


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_a_broken_json_file_is_named(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"x\.json|run lengths"):
        read(file)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_a_broken_file_is_named(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=r"x\.|run lengths|reaches beyond"):
        read(file)


@pytest.mark.parametrize("text", ["0", "0 0.1 0.1 0.5", "0 nan 1 0 1 0 0", "0 100 100 200 100 200 200", "5 1 1 0 0"])
def test_a_broken_yolo_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [dent]")
    with pytest.raises(InputError, match="no label files"):
        read(tmp_path)
    file = tmp_path / "train" / "labels" / "1.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode() + b"\r\n")
    with pytest.raises(InputError, match=r"1\.txt"):
        read(tmp_path)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Two OK test images, one with a mask that marks nothing, and two of the same file name."""
    folder = tmp_path / "images"
    names = ("train/good/3.png", "train/good/4.png", "test/good/1.png", "test/good/2.png", "test/bent/2.png")
    for value, name in enumerate((*names, "ground_truth/good/1_mask.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH), 0 if "mask" in name else 50 * value, np.uint8))
    lines = open_store(str(tmp_path / "store")).sub("lines")
    return Line(lines, pack(open_store(str(folder)), lines, "strip"))


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, Any], Path]:
    def put(name: str, content: Any) -> Path:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    return put


def row_of(line: Line, image_id: str) -> ImageRow:
    return next(row for shard in line.manifest.shards for row in read_rows(line.store, shard, only={image_id}))


Put = Callable[[str, Any], Path]


def test_an_outline_on_a_picture_of_another_size_is_refused(line: Line, put: Put) -> None:
    for file in (
        put("resized.json", coco(image={"height": 640, "width": 640})),
        put("turned.xml", cvat('<polygon points="1,1;5,1;5,5"/>').replace('"9" height="8', '"8" height="9')),
        put("turned.json", studio(outline(original_width=80, original_height=160))),
    ):
        with pytest.raises(LabelError, match="outlined on"):
            import_labels(line, file)
    halved = put("halved.json", studio(outline(original_width=4, original_height=4)))  # shares of the sides still hold
    assert import_labels(line, halved).steps == {"OK → NG": 1}


def test_shape_and_label_of_a_region_may_be_two_results(line: Line, put: Put) -> None:
    shape = outline(type="polygon", value={"points": TRIANGLE})
    label = outline(type="labels", value={"points": TRIANGLE, "labels": ["crack"]})
    about_it = outline(type="choices", value={"points": TRIANGLE, "choices": ["ok"]})
    found = import_labels(line, put("a.json", "\ufeff" + json.dumps(studio(shape, label, about_it))))
    row = row_of(found.line, "test/good/1.png")
    assert (row.label, row.defect_type, row.mask is not None) == ("ng", "crack", True)


def test_a_skipped_task_is_one_that_a_person_is_unsure_of(line: Line, put: Put, tmp_path: Path) -> None:
    skipped = [{"result": [], "was_cancelled": True}]
    file = put("a.json", studio(annotations=skipped))
    assert import_labels(line, file, empty="ok").changes == ()  # the image is labelled, and stays as it is
    assert [each.is_unsure for each in read_labels(file)] == [True]
    assert list(read_labels(put("b.json", studio(annotations=[])))) == []


def test_unsure_is_never_ok_and_a_mask_that_fits_the_label_stays(line: Line, put: Put) -> None:
    decided = "image_id,decision\ntest/bent/2.png,unsure\ntest/good/1.png,ok\n"
    assert import_labels(line, put("a.csv", decided), empty="ok").changes == ()
    aside = import_labels(line, put("a.csv", "image_id,decision\ntest/good/1.png,unknown\n"))
    assert aside.steps == {"left out": 1}
    unsure = put("a.csv", "image_id,decision\ntest/good/1.png,unsure\n")
    assert import_labels(line, unsure).changes == ()  # nobody is asked again either way
    found = import_labels(line, put("a.csv", "image_id,decision\ntest/good/1.png,ng\n"))
    assert found.line.counts["test/ng"] == 2
    assert found.line.manifest.masks == 0
    again = import_labels(line, put("a.csv", "image_id,decision\ntest/good/1.png,ok\n"))  # `line` is out of date
    assert again.line.counts == line.counts


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1.png", "test/good/1.png"),
        ("C:\\work\\strip\\test\\good\\1.png", "test/good/1.png"),
        ("../media/upload/3/0a1b2c3d-1.png", "test/good/1.png"),
        ("other/1.png", ""),
        ("2.png", ""),
        ("bent/2.png", "test/bent/2.png"),
        ("", ""),
    ],
)
def test_a_name_means_an_image_only_if_its_folders_fit(line: Line, put: Put, name: str, found: str) -> None:
    file = put("a.json", coco(image={"file_name": name}))
    if found:
        assert [change.row.image_id for change in import_labels(line, file, rehearse=True).changes] == [found]
    else:
        with pytest.raises(LabelError, match=r"no such image|may be any of"):
            import_labels(line, file)


def test_an_outline_that_marks_nothing_and_a_picture_as_mask_are_refused(line: Line, put: Put, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="holds the centre of no pixel"):
        import_labels(line, put("a.json", coco(annotation={"segmentation": [[1, 1, 1.2, 1, 1.2, 1.2]]})))
    folder = tmp_path / "masks"
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH * 9), np.uint8)
    cv2.imwrite(str(folder / "1.png"), pictures)
    with pytest.raises(InputError, match=r"1\.png is no mask: .*is it a picture"):
        import_labels(line, folder)
    alpha = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    alpha[2:, :, 3] = 0
    cv2.imwrite(str(folder / "1.png"), alpha)
    row = row_of(import_labels(line, folder).line, "test/good/1.png")
    assert decode_mask(row.mask or b"", HEIGHT, WIDTH).sum() == 2 * WIDTH
