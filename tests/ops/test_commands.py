"""Every command that the README's blocks show exists, options and files included."""

from __future__ import annotations

import re

from tests.support.commands import ROOT, faults

README = (ROOT / "README.md").read_text()


def shown() -> list[str]:
    """Lines of the README's blocks that start with a program of ours or Ray's."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.match(r"(raybench|ray|python) \w", line)]


def test_every_command_of_the_readme_exists() -> None:
    lines = shown()
    assert len(lines) > 20
    assert {line: found for line in lines if (found := faults(line.partition(" #")[0].rstrip(" &")))} == {}


def test_every_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.M))
    assert len(named) > 4
    assert named <= targets


def test_jobs_are_submitted_alike_everywhere() -> None:
    """The README's submission is the one that jobs/ shows and that tests/jobs runs."""
    command = r"ray job submit .*--runtime-env (\S+) --working-dir (\S+) -- python (\S+)"
    texts = [README, *(path.read_text() for path in (ROOT / "jobs").glob("*.*"))]
    found = {submitted for text in texts for submitted in re.findall(command, text)}
    assert found == {("jobs/runtime_env.yaml", ".", "jobs/evaluate.py")}
