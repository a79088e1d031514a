"""Imports point one way, and each heavy package is imported in one place only."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "raybench"

LAYERS = (
    {"cli"},
    {"_api"},
    {"scheduler"},
    {"report"},
    {"analysis"},
    {"worker"},
    {"runs"},
    {"config"},
    {"detectors", "data"},
    {"metrics"},
    {"store"},
    {"errors"},
)
"""Each imports only from those below it; `detectors` and `data` stand side by side."""
ONLY_IN = {
    "ray": {"scheduler"},
    "anomalib": {"detectors"},
    "torch": {"detectors", "metrics/on_device"},
    "timm": {"detectors"},
    "boto3": {"store"},
    "urllib3": {"store"},
    "botocore": {"store"},
    "fsspec": {"store"},
    "pyarrow.parquet": {"data/corrections", "data/shards", "runs/scores"},
    "cleanvision": {"data"},
    "mlflow": {"report"},
    "typer": {"cli"},
}
DOORS = {ROOT / "__init__.py", ROOT / "__main__.py"}
"""For Python and for the shell; they may import from every package."""
FILES = sorted(path for path in ROOT.rglob("*.py") if path not in DOORS)


@functools.cache
def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_the_rooms_are_those_of_the_design() -> None:
    """Whoever opens a new one says in the layout which way it imports."""
    assert {room(path) for path in FILES} <= set().union(*LAYERS)


def test_imports_point_one_way() -> None:
    level = {name: index for index, names in enumerate(LAYERS) for name in names}
    faults = []
    for path in FILES:
        here = room(path)
        for name in imported(path):
            package, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if package == "raybench" and there in level and there != here and level[there] <= level[here]:
                faults.append(f"{path.relative_to(ROOT)} imports {name}")
    assert faults == []


def test_no_two_modules_import_each_other() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    names = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in FILES}
    for name, path in names.items():
        graph[name] = {other for other in imported(path) if other in names}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert dict(graph) == {}


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_heavy_packages_have_one_home(package: str) -> None:
    homes = ONLY_IN[package]
    users = set()
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").as_posix()
        if any(name == package or name.startswith(f"{package}.") for name in imported(path)):
            users.add(parts if parts in homes else parts.split("/")[0])
    assert users == homes


def test_what_takes_seconds_to_import_waits_until_it_is_used() -> None:
    """Driver and aggregator never import torch; workers only for detectors that compute with it.

    Nor do they change how their process allocates memory: only tasks do.
    """
    code = (
        "import sys, raybench\n"
        "print('raybench.worker.memory' in sys.modules)\n"
        "import raybench.cli\n"
        "from raybench.scheduler import aggregator, predict, progress, runner\n"
        "from raybench.worker import memory, merge, score, timing, train\n"
        "print(memory.tune_malloc.cache_info().currsize)\n"
        "print(sorted({'torch', 'anomalib', 'timm', 'sklearn', 'scipy.stats'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["False", "0", "[]"]
