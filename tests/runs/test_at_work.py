"""Several drivers may share a run; what removes objects works alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raybench.errors import InputError
from raybench.runs import at_work
from raybench.runs.at_work import at_work_on, owner_of, working
from raybench.runs.run import RunStore
from raybench.store import Store, open_store


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


def test_what_removes_objects_works_alone(run: RunStore) -> None:
    with (
        working(run, "raybench run"),
        pytest.raises(InputError, match="in use: raybench run by"),
        working(run, "raybench gc", alone=True),
    ):
        pytest.fail("both at work")
    with working(run, "raybench gc", alone=True):
        for command in ("raybench run", "raybench predict"):
            with pytest.raises(InputError, match="in use: raybench gc by"), working(run, command):
                pytest.fail("both at work")
    with working(run, "raybench run"):
        assert [other.what for other in at_work_on(run)] == ["raybench run"]


def test_a_killed_process_is_forgotten_and_a_living_one_is_not(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "BEAT_S", 0.2)
    monkeypatch.setattr(at_work, "EXPIRES_S", 3.0)
    with working(run, "raybench run"):
        (left,) = [item.key for item in run.store.list("runs/night/at-work/")]
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
