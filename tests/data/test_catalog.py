from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raybench.data.catalog import find_lines, matching_lines, packed_lines
from raybench.data.manifest import Manifest
from raybench.errors import InputError
from raybench.store import Store, open_store

PutLine = Callable[[Store, str], Manifest]


@pytest.fixture
def near(tmp_path: Path, put_line: PutLine) -> Store:
    lines = open_store(str(tmp_path / "near" / "lines"))
    for name in ("bottle", "pcb-1", "pcb-2"):
        put_line(lines, name)
    return lines


@pytest.fixture
def far(tmp_path: Path, put_line: PutLine) -> Store:
    lines = open_store(str(tmp_path / "far"))
    for name in ("pcb-2", "pcb-3"):
        put_line(lines, name)
    return lines


def test_names_and_patterns_in_the_order_they_are_wanted(near: Store, far: Store) -> None:
    problems: list[str] = []
    found = find_lines([(near, "pcb-1"), (far, "*-3"), (near, "b*"), (near, "pcb-1")], problems)
    assert [(line, home.uri()) for line, home in found.items()] == [
        ("pcb-1", near.uri()),
        ("pcb-3", far.uri()),
        ("bottle", near.uri()),
    ]
    assert problems == []


def test_lines_of_one_store_share_one_object(near: Store) -> None:
    found = find_lines([(near, "pcb-1"), (open_store(near.uri()), "pcb-2")], [])
    assert found["pcb-1"] is found["pcb-2"]


def test_one_name_in_two_stores_is_a_fault_that_names_both(near: Store, far: Store) -> None:
    problems: list[str] = []
    find_lines([(near, "pcb-*"), (far, "pcb-*")], problems)
    (said,) = problems
    assert said.startswith(f"lines: 'pcb-2' is packed in {near.uri()} and in {far.uri()};")


def test_what_fits_nothing(near: Store, far: Store, tmp_path: Path) -> None:
    problems: list[str] = []
    above = open_store(str(tmp_path))
    find_lines([(near, "botle"), (far, "pcb-33"), (above, "pcb-*"), (far.sub("none"), "x"), (near, "zz*")], problems)
    assert problems == [
        f"lines: 'botle' is not packed in {near.uri()}; did you mean 'bottle'?; pack it with: raybench pack FOLDER "
        f"--line botle --to {near.uri().removesuffix('/lines')}",
        f"lines: 'pcb-33' is not packed in {far.uri()}; did you mean 'pcb-3'?",
        f"lines: 'pcb-*' is not packed in {above.uri()}; there are lines further down: {far.uri()}/pcb-*",
        f"lines: 'x' is not packed in {far.uri()}/none",
        f"lines: 'zz*' is not packed in {near.uri()}; known: bottle, pcb-1, pcb-2",
    ]


def test_matching_lines(near: Store) -> None:
    assert packed_lines(near) == ["bottle", "pcb-1", "pcb-2"]
    assert matching_lines(near, ["pcb-*", "pcb-1"]) == ["pcb-1", "pcb-2"]
    with pytest.raises(InputError, match="did you mean 'bottle'"):
        matching_lines(near, ["botle"])
