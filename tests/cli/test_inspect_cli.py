from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from raybench.cli import main, terminal
from raybench.data.inspection.inspection import inspection_key
from raybench.data.pack import pack
from raybench.store import Store, open_store


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raybench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def store(strips: Path, tmp_path: Path) -> Store:
    """Holds a line with a leak, a dark image and a file that is none."""
    images = Path(shutil.copytree(strips, tmp_path / "images"))
    good = images / "train" / "good"
    cv2.imwrite(str(good / "000.png"), np.asarray(cv2.imread(str(good / "000.png"))) // 3)
    shutil.copy(good / "001.png", images / "test" / "good" / "[red]leaked.png")
    (good / "empty.png").write_bytes(b"")
    found = open_store(str(tmp_path / "store"))
    pack(open_store(str(images)), found.sub("lines"), "strip")
    return found


def test_inspect_shows_what_is_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", store.uri("lines/strip")) == 0
    out = capsys.readouterr().out
    assert "strip: 2 of 37 images have something wrong with them; 2 images are copies of each other" in out
    for part in ("train/good/000.png", "test/good/[red]leaked.png", "which is trained on", "1 files were not packed"):
        assert part in out
    assert "rejected train/good/empty.png: empty_file" in out
    assert store.exists(f"lines/{inspection_key('strip')}")


def test_inspect_says_all_to_machines(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", store.uri("lines/strip"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["leak"] == 1
    assert {issue["image_id"] for issue in found["issues"]} == {"train/good/000.png", "test/good/[red]leaked.png"}
    assert (found["line"], found["images"]) == ("strip", 37)


@pytest.mark.parametrize("name", ["strip", "/lines/strip", "somewhere/lines/", "store/lines/other"])
def test_what_is_no_line_is_one_clear_message(
    store: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "inspect", name) == terminal.BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
