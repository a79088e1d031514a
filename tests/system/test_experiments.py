"""What jobs/ holds: experiments that parse, and a working directory that is small and free of secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory
from ray.runtime_env import RuntimeEnv

from raybench.cli.terminal import BAD_INPUT
from raybench.config.experiment import read_experiment
from raybench.data.layouts import SUFFIXES
from raybench.detectors import registry
from tests.support.checkout import check_out
from tests.support.head import ROOT, UPLOAD_LIMIT

JOBS = ROOT / "jobs"
EXPERIMENTS = sorted(path for path in JOBS.glob("*.yaml") if path.name != "runtime_env.yaml")


def runtime_env() -> dict[str, Any]:
    return dict(yaml.safe_load((JOBS / "runtime_env.yaml").read_text()))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_parses_and_names_models_that_exist(path: Path) -> None:
    experiment = read_experiment(path)
    for choice in experiment.models:
        registry.resolve(choice.name, choice.config, experiment.preset)


def test_the_experiments_that_are_promised() -> None:
    names = {path.stem for path in EXPERIMENTS}
    assert {"one_line", "fifty_lines", "gpu", "air_gapped", "ten_models"} <= names
    assert {choice.name for choice in read_experiment(JOBS / "fifty_lines.yaml").models} == set(
        registry.default_names()
    )


def test_the_working_directory_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ray job submit --working-dir .` would upload, made by Ray's own code."""
    checkout = check_out(tmp_path / "checkout")
    monkeypatch.chdir(checkout)
    excludes = [".git", ".venv", *runtime_env()["excludes"]]
    get_uri_for_directory(str(checkout), include_gitignore=True, excludes=excludes)
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=excludes)
    assert package.stat().st_size < UPLOAD_LIMIT
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(package, unpacked)
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    package_files = (ROOT / "raybench").rglob("*.*")
    ours = {path.relative_to(ROOT).as_posix() for path in package_files if path.suffix in (".py", ".css", ".js", ".j2")}
    assert {"jobs/evaluate.py", "jobs/one_line.yaml", *ours} <= held
    assert not [
        name for name in held if name.startswith((".git/", ".venv/", "out/", "data/", "photos/", "wheels", "weights"))
    ]


def test_bad_input_ends_the_job_at_once() -> None:
    """test_submit.py shows that what it returns is what the job returns."""
    command = [sys.executable, "jobs/evaluate.py", "jobs/none.yaml"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == BAD_INPUT
    assert "error: jobs/none.yaml: 1 problem" in ran.stderr


def test_no_image_is_uploaded() -> None:
    assert {f"*{suffix}" for each in SUFFIXES for suffix in (each, each.upper())} <= set(runtime_env()["excludes"])


def test_the_runtime_env_is_one_that_ray_takes_and_holds_no_secret() -> None:
    settings = runtime_env()
    assert RuntimeEnv(**settings).env_vars() == settings["env_vars"]
    assert not [name for name in settings["env_vars"] if re.search(r"AWS|SECRET|TOKEN|KEY|PASSWORD", name)]
