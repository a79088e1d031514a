"""Several drivers may share a run; nothing begins while something removes objects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.errors import InputError
from raybench.runs import at_work
from raybench.runs.at_work import at_work_on, owner_of, removing, working
from raybench.runs.plans import uses_of
from raybench.runs.run import RunStore
from raybench.store import Store, open_store
from raybench.store.backend import ObjectInfo
from tests.support.made_run import planned


@pytest.fixture(params=["folder", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    store: Store = open_store(str(tmp_path)) if request.param == "folder" else request.getfixturevalue("bucket")
    return RunStore(store, "night")


def test_the_second_driver_is_told_of_the_first(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYBENCH_OWNER", "anna")
    with working(run, "raybench run") as others:
        assert others == []
        monkeypatch.setenv("RAYBENCH_OWNER", "ben")
        with working(run, "raybench run") as others:
            assert [other.text.partition(", since")[0] for other in others] == ["raybench run by anna"]
            assert {other.who for other in at_work_on(run)} == {"anna", "ben"}
    assert at_work_on(run) == []
    assert owner_of(run) == "anna"


def test_nothing_begins_while_objects_are_removed(run: RunStore) -> None:
    with removing(run.store, "raybench gc"):
        for command in ("raybench run", "raybench predict"):
            with pytest.raises(InputError, match="in use: raybench gc by"), working(run, command):
                pytest.fail("both at work")
        with pytest.raises(InputError, match="in use: raybench gc by"), removing(run.store, "raybench rm", "other"):
            pytest.fail("both at work")
    with working(run, "raybench run"):
        assert [other.what for other in at_work_on(run)] == ["raybench run"]
        with removing(run.store, "raybench gc") as others:
            assert [other.run for other in others] == ["night"]


def test_a_run_is_removed_while_nobody_works_on_it(run: RunStore) -> None:
    with working(run, "raybench run"):
        with pytest.raises(InputError, match="in use: raybench run by"), removing(run.store, "raybench rm", "night"):
            pytest.fail("both at work")
        with removing(run.store, "raybench rm", "nigh") as others:
            assert len(others) == 1


def test_a_driver_says_what_it_uses_before_it_looks_who_removes_objects(
    strips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, strips, 8)
    run = RunStore.of(plan)
    said = list[frozenset[str]]()
    original = Store.list

    def listed(store: Store, prefix: str = "") -> Iterator[ObjectInfo]:
        if prefix == at_work.FOLDER:
            said.append(uses_of(run).current)
        return original(store, prefix)

    with removing(run.store, "raybench gc"):
        monkeypatch.setattr(Store, "list", listed)
        with pytest.raises(InputError), working(run, "raybench run", plan):
            pytest.fail("both at work")
        monkeypatch.undo()
    assert said == [{folder for unit in plan.units for folder in unit.folders}]
    assert not list(run.store.list("runs/")), "a driver that is refused changes nothing"
    with working(run, "raybench run", plan):
        assert uses_of(run).current == said[0]


def test_a_killed_process_is_forgotten_and_a_living_one_is_not(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "BEAT_S", 0.2)
    monkeypatch.setattr(at_work, "EXPIRES_S", 3.0)
    with working(run, "raybench run"):
        (left,) = [item.key for item in run.store.list("at-work/")]
        data = run.store.get(left)
        time.sleep(3.5)
        assert len(at_work_on(run)) == 1
    run.store.put(left, data)  # as a killed process leaves it
    assert len(at_work_on(run)) == 1
    until = time.monotonic() + 10
    while at_work_on(run):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.delenv("RAYBENCH_OWNER", raising=False)
    monkeypatch.setattr("getpass.getuser", nobody)
    assert at_work.this_user().startswith("user ")


def test_a_run_of_an_older_raybench_has_no_owner(run: RunStore) -> None:
    assert owner_of(run) == ""
