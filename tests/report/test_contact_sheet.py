from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench.data.line import Line
from raybench.data.pack import PackOptions, pack
from raybench.report.contact_sheet import EACH, write_contact_sheet
from raybench.store import open_store


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """Forty OK training images in ten shards, and two NG images of which one has a mask."""
    folder = tmp_path / "images"
    names = [f"train/good/{index:02}.png" for index in range(40)]
    names += ["test/<i>bent/0.png", "test/<i>bent/1.png", "ground_truth/<i>bent/1_mask.png"]
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((30, 20), value * 5, np.uint8)
        if "mask" in name:
            pixels = np.zeros((30, 20), np.uint8)
            pixels[10:20, 5:11] = 255
        cv2.imwrite(str(path), pixels)
    (folder / "train" / "good" / "cut<b>.png").write_bytes(b"cut off")
    lines = open_store(str(tmp_path / "store")).sub("lines")
    return Line(lines, pack(open_store(str(folder)), lines, "strip", PackOptions(shard_rows=4)))


def test_images_labels_and_masks_stand_together(line: Line, tmp_path: Path) -> None:
    page = write_contact_sheet(line, tmp_path / "out" / "strip").read_text(encoding="utf-8")
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    shown = {re.search(r'alt="(.*?)"', figure)[1]: figure for figure in figures}  # type: ignore[index]
    assert [name for name in shown if "train" in name][:: EACH - 1] == ["train/good/00.png", "train/good/39.png"]
    assert len(figures) == EACH + 2
    assert "no mask" in shown["test/&lt;i&gt;bent/0.png"]
    assert "<path" not in shown["test/&lt;i&gt;bent/0.png"]
    assert "mask on 10.0%" in shown["test/&lt;i&gt;bent/1.png"]
    assert "<path" in shown["test/&lt;i&gt;bent/1.png"]
    assert "20 × 30" in shown["train/good/00.png"]
    assert "cut&lt;b&gt;.png" in page
    assert not re.search(r"<i>|<b>|<script", page)
    shards = {int(name[-6:-4]) // 4 for name in shown if "train" in name}
    assert shards == {0, 4, 9}  # few are opened
    assert "train · OK: 40" in page
