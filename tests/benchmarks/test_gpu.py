"""The acceptance on a GPU, rehearsed on the CPU, and the wheels that travel with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import kit
from benchmarks.gpu.__main__ import LIMITS_S, table
from benchmarks.gpu.parts import judged
from benchmarks.gpu.session import Finding, Session, read
from tests.support.commands import ROOT

LOCK = """\
av==18.1.0 ; python_full_version < '3.12'
av==19.0.2 ; python_full_version >= '3.12'
    # via something
kornia==0.9.0
kornia-rs==0.2.0
nvidia-nvtx==13.2.86 ; sys_platform == 'linux'
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session("cpu", quick=True, out=tmp_path, label="new")


def test_a_check_that_raises_has_failed_and_the_others_go_on(session: Session, tmp_path: Path) -> None:
    def check(row: str) -> Finding:
        if row == "first":
            raise RuntimeError("CUDA error")
        return Finding(True, {"gap": 1e-7})

    session.check("equal", ["first", "second"], check)
    first, second = read(tmp_path, "new")
    assert (first["passed"], first["error"]) == (False, "RuntimeError: CUDA error")
    assert "in check" in first["trace"]
    assert second["passed"]
    assert read(tmp_path, "base") == []


def test_the_table_has_a_row_per_finding_and_counts_failures() -> None:
    values = {"gap": 1.23456e-7, "busy": {"mean": 3.0}, "trace": "long"}
    rows = table([{"label": "new", "part": "equal", "row": "dfm", "passed": False, **values}]).splitlines()
    assert rows[0].split() == ["equal", "dfm", "FAIL", "gap=1.23e-07", "busy={mean:3}"]
    assert rows[1] == "1 findings, 1 failed"


def test_a_quick_run_takes_one_model_unless_models_are_named(session: Session) -> None:
    assert session.chosen(("dfm", "padim")) == ["dfm"]
    assert Session("cpu", True, session.out, "new", ("padim", "cflow")).chosen(("dfm", "padim")) == ["padim"]


def test_a_sketch_in_torch_is_the_one_in_numpy(session: Session, tmp_path: Path) -> None:
    judged.run(session)
    (finding,) = read(tmp_path, "new")
    assert finding["passed"], finding
    assert finding["same"]


def test_another_version_must_be_a_folder_with_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "judged", "--package", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "holds no raybench/" in ran.stderr


@pytest.mark.parametrize(("python", "av"), [("3.11", "18.1.0"), ("3.12", "19.0.2")])
def test_versions_are_those_of_the_lock_for_that_python(python: str, av: str) -> None:
    others = {"kornia": "0.9.0", "kornia-rs": "0.2.0", "nvidia-nvtx": "13.2.86"}
    assert kit.locked(LOCK, python) == {"av": av, **others}


def test_the_lock_has_all_of_the_kit() -> None:
    assert set(kit.PACKAGES) <= set(kit.locked((ROOT / "requirements.lock").read_text(), "3.12"))


def test_wheels_are_found_by_name_and_version_and_others_are_superfluous(tmp_path: Path) -> None:
    for name in (
        "kornia-0.9.0-py3-none-any.whl",
        "kornia_rs-0.2.0-cp312-cp312-any.whl",
        "ImageHash-4.3-py3-none-any.whl",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in kit.find(tmp_path, "kornia", "0.9.0")] == ["kornia-0.9.0-py3-none-any.whl"]
    assert [path.name for path in kit.find(tmp_path, "kornia-rs", "0.2.0")] == ["kornia_rs-0.2.0-cp312-cp312-any.whl"]
    assert kit.find(tmp_path, "imagehash", "4.2") == []
    wanted = {"kornia": "0.9.0", "kornia-rs": "0.2.0"}
    assert [path.name for path in kit.superfluous(tmp_path, wanted)] == ["ImageHash-4.3-py3-none-any.whl"]


@pytest.mark.long  # one part runs above
def test_every_part_can_be_rehearsed_on_a_cpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--quick", "--seconds", "0.3", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests run beside this one
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    findings = read(tmp_path, "new")
    assert {finding["part"] for finding in findings} == set(LIMITS_S)
    assert all(finding["passed"] is not False for finding in findings), ran.stdout
    assert "profiles.txt" in {path.name for path in tmp_path.iterdir()}
