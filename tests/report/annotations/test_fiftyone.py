"""The COCO export opened by FiftyOne, in an interpreter of its own: it wants an older OpenCV than raybench has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.made_masks import Mask, exported, iou

FIFTYONE = os.environ.get("RAYBENCH_FIFTYONE_PYTHON", "")
READ = Path(__file__).with_name("read_by_fiftyone.py")
LEAST_IOU = 0.95


def made() -> list[Mask]:
    """A frame with a hole, regions at the border, a blob, a crack of one pixel, a speck, and nothing."""
    canvases = [np.zeros((60, 70), np.uint8) for _ in range(6)]
    cv2.rectangle(canvases[0], (15, 10), (49, 39), 1, -1)
    cv2.rectangle(canvases[0], (20, 20), (39, 24), 0, -1)
    canvases[1][0, :] = canvases[1][30:50, 60:] = 1
    cv2.ellipse(canvases[2], (30, 30), (22, 9), 30.0, 0.0, 360.0, 1, -1)
    cv2.line(canvases[3], (3, 5), (60, 50), 1, 1)
    canvases[4][59, 69] = 1
    return [canvas.astype(np.bool_) for canvas in canvases]


@pytest.mark.skipif(
    not FIFTYONE,
    reason="RAYBENCH_FIFTYONE_PYTHON names no Python with fiftyone and pycocotools; docs/annotations.md says more",
)
def test_coco_by_fiftyone(tmp_path: Path) -> None:
    wanted = made()
    items = exported(wanted, tmp_path, "coco")
    command = [FIFTYONE, str(READ), str(tmp_path / "strip"), str(tmp_path / "read")]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HOME": str(tmp_path)}
    ran = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {path.stem for path in (tmp_path / "read").iterdir()} == {one.file for one in items}
    for one, mask in zip(items, wanted, strict=True):
        read = np.load(tmp_path / "read" / f"{one.file}.npy")
        assert read.shape == mask.shape
        assert iou(read, mask) >= LEAST_IOU if mask.any() else not read.any()
