"""The bundle for machines without internet: made, then installed into a clean environment with the network refused.

The wheels here are two small ones, so that nothing is fetched; `make bundle-check` does the same with all of them. What
it runs after that is run here too, on what is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.commands import ROOT

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NOWHERE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def write_wheel(folder: Path, name: str, code: str, script: str = "") -> None:
    """A whole wheel of one module. script: its command, which calls `main`."""
    about = f"{name}-0.1.0.dist-info"
    files = {
        f"{name}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\nRequires-Dist: not-in-the-bundle\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": f"[console_scripts]\n{script} = {name}:main\n" if script else "",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-0.1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "wheels").mkdir()
    (folder / "weights" / "resnet18").mkdir(parents=True)
    (folder / "weights" / "resnet18" / "file.pth").write_bytes(b"weights")
    write_wheel(folder / "wheels", "raybench", "import part\ndef main():\n    print(part.TOLD)\n", "raybench")
    write_wheel(folder / "wheels", "part", "TOLD = 'it runs'\n")
    command = [sys.executable, str(ROOT / "cluster" / "bundle.py"), "--to", str(folder / "bundle.tar")]
    command += ["--python", PYTHON, "--wheels", str(folder / "wheels"), "--weights", str(folder / "weights")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "bundle.tar"


@pytest.fixture
def bundle(archive: Path, tmp_path: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "bundle", filter="data")
    return tmp_path / "bundle"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    return subprocess.run(command, capture_output=True, text=True, env=clean | environment)


def run_alone(*command: str) -> subprocess.CompletedProcess[str]:
    """Run it where no address but loopback can be reached, by the kernel's word where it lets us ask for that."""
    alone = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
        return run(*alone, *command)
    return run(*command, **NOWHERE)


def install(bundle: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return run_alone(str(bundle / "install.sh"), str(target), sys.executable)


def test_it_installs_without_a_network(bundle: Path, tmp_path: Path) -> None:
    done = install(bundle, tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"installed: {tmp_path}/venv/bin/raybench",
        f"weights: export RAYBENCH_WEIGHTS={bundle}/weights",
    ]
    assert run(f"{tmp_path}/venv/bin/raybench").stdout == "it runs\n"


def test_it_holds_what_it_should(bundle: Path) -> None:
    assert (bundle / "requirements.txt").read_text() == "part==0.1.0\nraybench==0.1.0\n"
    held = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {
        "jobs/evaluate.py",
        "cluster/kuberay/base/raycluster.yaml",
        "weights/resnet18/file.pth",
        "install.sh",
    } <= held
    assert "cluster/smoke.py" in held
    sums = {line.split()[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    assert sums == held - {"SHA256SUMS"}


@pytest.mark.parametrize("name", ["wheels/part-0.1.0-py3-none-any.whl", "weights/resnet18/file.pth", "PYTHON"])
def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"\n")
    done = install(bundle, tmp_path / "venv")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{name}: FAILED" in done.stderr
    assert "error: the bundle is damaged or incomplete; copy it again" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_another_python_is_named(bundle: Path, tmp_path: Path) -> None:
    (bundle / "PYTHON").write_text("3.99\n")
    done = install(bundle, tmp_path / "venv")
    assert done.returncode == 2
    assert f"the wheels are for Python 3.99 and {sys.executable} is {PYTHON}" in done.stderr


def test_the_launcher_installs_a_bundle_once_beside_the_last_one(archive: Path, tmp_path: Path) -> None:
    """The setup commands of on_prem.yaml, as `ray up` runs them on each machine, twice."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(archive, home / "raybench-bundle.tar")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    setup = yaml.safe_load((ROOT / "cluster" / "launcher" / "on_prem.yaml").read_text())["setup_commands"]
    for command in (*setup, *setup):
        done = run("bash", "-e", "-c", command, HOME=str(home), PATH=path)
        assert done.returncode == 0, done.stderr
    assert len(list(home.glob("raybench-*/bin"))) == 1
    assert (home / "raybench").readlink().parent == home
    assert (home / ".profile").read_text() == ". ~/.raybench-env\n"
    said = run("bash", "-c", ". ~/.profile; raybench; ls $RAYBENCH_WEIGHTS", HOME=str(home)).stdout
    assert said.split("\n") == ["it runs", "resnet18", ""]


@pytest.mark.cluster
@pytest.mark.timeout(900)
@pytest.mark.long  # test_submit.py and test_api.py have runs from images to the report
def test_from_images_to_the_report_without_a_network() -> None:
    done = run_alone(sys.executable, str(ROOT / "cluster" / "smoke.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 units: 2 done now, 0 done before, 0 failed" in done.stdout
    assert "everything is as it was written" in done.stdout
    assert "raybench works on this machine" in done.stdout.splitlines()[-1]
