from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raybench.store import Store, open_store


@pytest.fixture
def source(strips: Path, tmp_path: Path) -> Path:
    """A copy of the generated line's folder, to change."""
    shutil.copytree(strips, tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def lines(tmp_path: Path) -> Store:
    """An empty store of lines in a folder."""
    return open_store(str(tmp_path / "lines"))
