"""Each format is opened by the tool's own reader, and the masks come back."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.report.annotations.item import AnnotatedImage
from raybench.report.annotations.write import write
from tests.support.made_masks import Mask, exported, iou, item, masks, union

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
SEVERAL = st.lists(masks(), min_size=3, max_size=3)
SHAPES = settings(max_examples=25, deadline=None)
LEAST_IOU = 0.95


def check(found: Sequence[Mask], wanted: Sequence[Mask]) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        # A corner that rounding puts on the edge of a pixel may fall on either side of it.
        assert iou(one, other) >= LEAST_IOU or np.count_nonzero(one != other) == 1


def by_coco(path: Path) -> list[Mask]:
    """The masks of a COCO file, in the order of its images."""
    from tests.support.other_readers import COCO

    coco = COCO(str(path))
    shown = coco.loadImgs(sorted(coco.getImgIds()))
    return [
        union((coco.annToMask(one) for one in coco.imgToAnns[image["id"]]), (image["height"], image["width"]))
        for image in shown
    ]


def by_datumaro(path: Path, format_: str) -> list[Mask]:
    from tests.support.other_readers import datumaro

    found = datumaro.Dataset.import_from(str(path), format_).transform("polygons_to_masks")
    entries = sorted(found, key=lambda one: str(one.id))
    return [union((one.image for one in entry.annotations), entry.media.data.shape[:2]) for entry in entries]


@SHAPES
@given(SEVERAL)
def test_coco_by_pycocotools(wanted: list[Mask]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        exported(wanted, Path(folder), "coco")
        check(by_coco(Path(folder, "strip", "coco.json")), wanted)


@SHAPES
@given(SEVERAL)
def test_cvat_by_datumaro(wanted: list[Mask]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        exported(wanted, Path(folder), "cvat")
        check(by_datumaro(Path(folder, "strip"), "cvat"), wanted)


@settings(max_examples=10)  # it takes its time
@given(SEVERAL)
def test_label_studio_by_its_own_converter(wanted: list[Mask]) -> None:
    """Predictions taken over as they are, as an annotator does with one click, and exported by Label Studio."""
    from tests.support.other_readers import Converter

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported(wanted, Path(folder), "label-studio")
        config, tasks = label_studio(Path(folder, "strip"))
        for number, task in enumerate(tasks):
            task |= {"id": number, "annotations": [{"id": 1, "completed_by": 1, **task.pop("predictions")[0]}]}
        taken = Path(folder, "taken.json")
        taken.write_text(json.dumps(tasks))
        converter: Any = Converter
        converter(config, folder, download_resources=False).convert_to_coco(str(taken), folder, is_dir=False)
        check(by_coco(Path(folder, "result.json")), wanted)


@SHAPES
@given(SEVERAL)
def test_yolo_as_ultralytics_reads_and_fills_it(wanted: list[Mask]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        items = exported(wanted, Path(folder), "yolo")
        check([by_ultralytics(Path(folder, "strip", "labels", f"{one.stem}.txt"), one) for one in items], wanted)


@SHAPES
@given(SEVERAL)
def test_mask_pngs_are_exact(wanted: list[Mask]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        items = exported(wanted, Path(folder), "masks")
        for one, mask in zip(items, wanted, strict=True):
            found = cv2.imread(str(Path(folder, "strip", "masks", f"{one.stem}.png")), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(found, mask * np.uint8(255))


def by_ultralytics(path: Path, one: AnnotatedImage) -> Mask:
    """`polygon2mask` of ultralytics.data.utils, on the segments that its `verify_image_label` reads."""
    height, width = one.mask.shape
    canvas = np.zeros((height, width), np.uint8)
    for line in path.read_text().splitlines():
        kind, *values = line.split()
        segment = np.array(values, np.float32).reshape(-1, 2) * (width, height)
        assert kind == "0"
        assert len(values) >= 6
        cv2.fillPoly(canvas, [segment.astype(np.int32)], 1)
    return canvas.astype(np.bool_)


def label_studio(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    tasks: list[dict[str, Any]] = json.loads((folder / "label_studio.json").read_text())
    return (folder / "label_studio_config.xml").read_text(), tasks


def test_yolo_by_supervision(tmp_path: Path) -> None:
    from tests.support.other_readers import supervision

    wanted = [np.zeros((60, 70), np.bool_) for _ in range(2)]
    wanted[0][10:40, 15:50] = True
    wanted[0][20:25, 20:40] = False
    wanted[1][0, :] = wanted[1][30:50, 60:] = True
    items = exported(wanted, tmp_path, "yolo")
    root = tmp_path / "strip"
    found = supervision.DetectionDataset.from_yolo(
        str(root / "images"), str(root / "labels"), str(root / "data.yaml"), force_masks=True
    )
    assert found.classes == ["anomaly"]
    by_path = {Path(path).stem: detections for path, _, detections in found}
    check([union(np.asarray(by_path[one.stem].mask), one.mask.shape) for one in items], wanted)


def test_label_studio_takes_tasks_and_predictions(tmp_path: Path) -> None:
    from tests.support.other_readers import LabelInterface

    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 10:30] = True
    mask[8:12, 15:20] = False
    found = [item(mask, 1, "a.png", 7.0), item(mask, 2, '"><script>.png', -2.0), item(mask, 3, "none", None)]
    write(found, tmp_path / "strip", ["label-studio"], "night: strip")
    config, tasks = label_studio(tmp_path / "strip")
    interface: Any = LabelInterface(config)
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        assert interface.validate_task({"data": task["data"]})
        name = task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert (tmp_path / name).is_file()
        xs, ys = np.array(prediction["result"][0]["value"]["points"]).T
        assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((25, 75, 100 * 5 / 30, 100 * 20 / 30))
    assert [task["predictions"][0]["score"] for task in tasks] == [0.875, 0, 0]
    broken = {"result": [{**tasks[0]["predictions"][0]["result"][0], "from_name": "other"}]}
    assert not interface.validate_prediction(broken)


def test_holes_are_kept_where_a_format_has_them(tmp_path: Path) -> None:
    from tests.support.other_readers import COCO

    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 10:30] = True
    mask[8:12, 15:20] = False
    exported([mask], tmp_path, "coco", "cvat")
    (coco,) = by_coco(tmp_path / "strip" / "coco.json")
    (cvat,) = by_datumaro(tmp_path / "strip", "cvat")
    np.testing.assert_array_equal(coco, mask)
    np.testing.assert_array_equal(cvat, mask)
    (annotation,) = COCO(str(tmp_path / "strip" / "coco.json")).anns.values()
    assert (annotation["area"], annotation["bbox"]) == (mask.sum(), [10, 5, 20, 15])
