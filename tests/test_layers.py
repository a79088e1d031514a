"""Imports point one way, and each heavy package is imported in one place only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "raybench"

LAYERS = [
    {"errors", "heap", "results", "units", "versions", "yaml_rows"},
    {"experiment", "backends", "store"},
    {"runs", "ledger", "costs"},
    {"embedded", "lines", "models", "metrics"},
    {"plan", "verify", "prediction", "forecast"},
    {"work"},
    {"findings"},
    {"reports"},
    {"schedule"},
    {"cli"},
]
SIDE_BY_SIDE = {"lines", "models", "metrics", "embedded"}
ONLY_IN = {
    "ray": {"schedule"},
    "anomalib": {"models"},
    "torch": {"models"},
    "timm": {"models"},
    "boto3": {"backends"},
    "urllib3": {"backends"},
    "botocore": {"backends"},
    "fsspec": {"backends"},
    "pyarrow.parquet": {"lines/shards", "lines/scores"},
    "cleanvision": {"lines"},
    "typer": {"cli"},
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


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


def layer(part: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    here = path.relative_to(ROOT).with_suffix("").parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "raybench" or len(parts) < 2:
            continue
        there = parts[1]
        if there == here:
            continue
        assert layer(there) <= layer(here), f"{path.name} imports {name}, which stands to its right"
        assert not {here, there} <= SIDE_BY_SIDE, f"{path.name} imports {name}, which stands beside it"


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_heavy_packages_have_one_home(package: str) -> None:
    homes = ONLY_IN[package]
    users = set()
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").as_posix()
        if any(name == package or name.startswith(f"{package}.") for name in imported(path)):
            users.add(parts if parts in homes else parts.split("/")[0])
    assert users == homes
