"""Every command that the pages' blocks show exists, options and files included."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.commands import ROOT, faults
from tests.support.pages import PAGES, blocks


def shown(page: Path) -> list[str]:
    """Rows of the page's blocks that start with a program of ours or Ray's."""
    return [
        row for block in blocks(page) for row in block.text.splitlines() if re.match(r"(raybench|ray|python) \w", row)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page: Path) -> None:
    assert {row: found for row in shown(page) if (found := faults(row.partition(" #")[0].rstrip(" &")))} == {}


def test_the_pages_show_commands() -> None:
    counts = {page.name: len(shown(page)) for page in PAGES}
    assert sum(counts.values()) > 25
    assert min(counts[name] for name in ("README.md", "quickstart.md", "cluster.md", "models.md")) > 3


def test_every_target_of_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.M)}
    assert len(named) > 8
    assert named <= targets


def test_jobs_are_submitted_alike_everywhere() -> None:
    """The submission of docs/cluster.md is the one that jobs/ shows and that tests/system runs."""
    command = r"ray job submit .*--runtime-env (\S+) --working-dir (\S+) -- python (\S+)"
    files = [*PAGES, *(ROOT / "jobs").glob("*.*")]
    found = {submitted for path in files for submitted in re.findall(command, path.read_text())}
    assert found == {("jobs/runtime_env.yaml", ".", "jobs/evaluate.py")}
