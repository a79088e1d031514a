"""Everything that a machine without internet needs, as one archive: `make bundle`.

raybench-bundle.tar
├── install.sh          makes a virtual environment from what lies here
├── SHA256SUMS          of every other file; install.sh checks them first
├── PYTHON              the version the wheels are for
├── requirements.txt    every wheel, pinned
├── wheels/             as in requirements.lock, for the chosen Python, machine and glibc, and raybench itself
├── weights/            a weights store, where one is given; the default backbone is among the wheels
└── jobs/, cluster/     experiments, manifests, dashboards
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OLDEST_GLIBC = 5  # manylinux1
GLIBC = {"x86_64": "2.28", "aarch64": "2.35"}  # that every locked wheel runs on: RHEL 8; Ubuntu 22.04


def main() -> None:
    """Fetch, check and pack. Exits with a message when a package has no wheel for the target."""
    chosen = _arguments()
    with tempfile.TemporaryDirectory(dir=chosen.to.parent) as scratch:
        folder = Path(scratch, "bundle")
        wheels = folder / "wheels"
        wheels.mkdir(parents=True)
        if chosen.wheels:
            for path in chosen.wheels.glob("*.whl"):
                shutil.copy(path, wheels)
        else:
            fetch(wheels, chosen.python, chosen.machine, chosen.glibc)
        if chosen.weights:
            shutil.copytree(chosen.weights, folder / "weights")
        (folder / "PYTHON").write_text(f"{chosen.python}\n")
        pack(folder, chosen.to)
    size_mb = chosen.to.stat().st_size / 1e6
    print(f"{chosen.to}: {size_mb:.0f} MB, for Python {chosen.python} on {chosen.machine}, glibc ≥ {chosen.glibc}")


def fetch(wheels: Path, python: str, machine: str, glibc: str) -> None:
    """Put a wheel of everything raybench runs on, as locked, and of raybench itself into `wheels`."""
    locked = _run(
        "uv", "pip", "compile", "pyproject.toml", "--extra", "server", "--extra", "export", "--quiet",
        "--constraint", "requirements.lock", "--no-header", "--no-annotate", "--no-emit-index-url",
        "--python-version", python, "--python-platform", f"{machine}-manylinux_{glibc.replace('.', '_')}",
    )  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as wanted:
        wanted.write(locked)
        wanted.flush()
        target = ["--python-version", python, "--implementation", "cp"]
        for platform in platforms(machine, glibc):
            target += ["--platform", platform]
        # Without dependencies pip also takes packages that come as source only.
        _run("pip", "download", "--quiet", "--no-deps", *target, "--requirement", wanted.name, "--dest", str(wheels))
    for source in [path for path in wheels.iterdir() if path.suffix != ".whl"]:
        _run("pip", "wheel", "--quiet", "--no-deps", str(source), "--wheel-dir", str(wheels))
        source.unlink()
    _run("pip", "wheel", "--quiet", "--no-deps", str(ROOT), "--wheel-dir", str(wheels))
    foreign = [path.name for path in wheels.iterdir() if path.name.endswith((f"-linux_{machine}.whl", ".tar.gz"))]
    if foreign:
        sys.exit(f"error: no wheel for other machines than this one: {', '.join(foreign)}")


def platforms(machine: str, glibc: str) -> list[str]:
    """pip's names of all platforms whose wheels run there."""
    major, _, newest = glibc.partition(".")
    names = [f"manylinux_{major}_{minor}_{machine}" for minor in range(int(newest), OLDEST_GLIBC - 1, -1)]
    return [*names, f"manylinux2014_{machine}"]


def pack(folder: Path, to: Path) -> None:
    """Add the project's files, requirements and checksums to `folder`, and make the archive."""
    pins = ["==".join(path.name.split("-")[:2]) for path in sorted((folder / "wheels").glob("*.whl"))]
    (folder / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
    for name in ("jobs", "cluster"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cluster" / "install.sh", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
    with tarfile.open(to, "w") as archive:  # wheels and weights are compressed already
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pack everything for machines without internet into one archive.")
    parser.add_argument("--to", type=Path, default=Path("dist/raybench-bundle.tar"))
    parser.add_argument("--python", default="3.11", help="of the target")
    parser.add_argument("--machine", default="x86_64", choices=GLIBC, help="of the target")
    parser.add_argument("--glibc", help=f"of the target, or older; default: {GLIBC}")
    parser.add_argument("--weights", type=Path, help="folder made by `raybench weights mirror`")
    parser.add_argument("--wheels", type=Path, help="take the wheels in this folder and fetch none")
    chosen = parser.parse_args()
    chosen.glibc = chosen.glibc or GLIBC[chosen.machine]
    chosen.to = chosen.to.resolve()  # pip runs elsewhere
    chosen.to.parent.mkdir(parents=True, exist_ok=True)
    return chosen


def _run(tool: str, *arguments: str) -> str:
    command = [sys.executable, "-m", tool, *arguments]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        sys.exit(f"error: {tool} {arguments[0]} failed, see above")
    return ran.stdout


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
