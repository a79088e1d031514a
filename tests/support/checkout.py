"""A checkout as a user has it, to submit jobs from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.head import ROOT, UPLOAD_LIMIT


def check_out(folder: Path) -> Path:
    """Fill `folder` with the repository's files, committed or not, and what a used checkout has beside them.

    Skips the test where git cannot tell which files belong to the repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the repository is not known")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for name in (
        ".git/objects/pack",
        ".venv/lib/torch.so",
        "out/store/data.bin",
        "data/bottle/000.png",
        "photos/can/0.JPG",
        "wheels/torch.whl",
        "weights/resnet18/model.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(UPLOAD_LIMIT))
    return folder
