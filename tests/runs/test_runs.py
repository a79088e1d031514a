from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.errors import IntegrityError
from raybench.runs import run as run_module
from raybench.runs.records import Failure, MeasureRecord
from raybench.runs.run import RunStore, score_name
from raybench.store import open_store
from tests.support.results import SPEED, UNIT


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return RunStore(open_store(str(tmp_path)), "night")


def measured(p50_ms: float) -> MeasureRecord:
    return replace(UNIT.measured, speed=replace(SPEED, p50_ms=p50_ms))


def test_the_first_commit_stands(run: RunStore) -> None:
    assert run.commit("u1", "measure", measured(1.0)) == measured(1.0)
    assert run.commit("u1", "measure", measured(9.0)) == measured(1.0)
    assert run.read("u1", "measure", MeasureRecord) == measured(1.0)
    assert run.read("u2", "measure", MeasureRecord) is None


def test_racing_writers_agree(run: RunStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda n: run.commit("u1", "measure", measured(n)).speed.p50_ms, range(8)))
    assert len(found) == 1


def test_blobs_of_one_object_are_read_and_checked_one_by_one(run: RunStore) -> None:
    parts = {"first": b"12345", "empty": b"", "last": b"678"}
    blobs = run.put_blobs("u1", "partial/test-00000", parts)
    assert {name: run.get_blob(blob) for name, blob in blobs.items()} == parts
    assert run.get_blobs(blobs["last"], blobs["empty"]) == [b"678", b""]
    assert run.get_blobs(*blobs.values()) == [*parts.values()]
    (key,) = {blob.key for blob in blobs.values()}
    for damaged in (b"1234567", b"123459678", b"1234"):
        run.store.put(key, damaged)
        assert run.get_blob(blobs["empty"]) == b""
        with pytest.raises(IntegrityError, match="is damaged"):
            run.get_blob(blobs["last"])
        with pytest.raises(IntegrityError, match="is damaged"):
            run.get_blobs(*blobs.values())


def test_blobs_are_checked(run: RunStore) -> None:
    blob = run.put_blob("u1", "partial/a", b"good bytes")
    assert run.get_blob(blob) == b"good bytes"
    run.store.put(blob.key, b"evil bytes")
    with pytest.raises(IntegrityError, match="damaged"):
        run.get_blob(blob)


def test_different_bytes_never_overwrite_each_other(run: RunStore) -> None:
    first, second = run.put_blob("u1", "x", b"1"), run.put_blob("u1", "x", b"2")
    assert (run.get_blob(first), run.get_blob(second)) == (b"1", b"2")


def test_commits_lists_names_not_blobs(run: RunStore) -> None:
    run.put_blob("u1", "x", b"1")
    run.commit("u1", "measure", measured(1.0))
    run.commit("u3", "measure", measured(2.0))
    assert run.commits(["u1", "u2"]) == {"u1": {"measure"}}


@pytest.mark.parametrize(("others", "few"), [(0, 256), (0, 1), (200, 1)])
def test_commits_are_found_among_those_of_other_runs(
    run: RunStore, others: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "FEW_FOLDERS", few)
    for number in range(others):
        run.store.put(run.key(f"a{number}", "train.json"), b"{}")
    RunStore(run.store, "another").commit("u1", "measure", measured(1.0))
    assert run.commits(["u1", "u2"]) == {"u1": {"measure"}}
    assert run.prediction("new").commits(["u1"]) == {}, "a prediction's units are its own"


def test_the_latest_failure_of_a_unit_is_the_run_s_own(run: RunStore) -> None:
    for attempt in (1, 2):
        run.record_failure("u2", Failure("train", "ValueError", "no", "Traceback", attempt))
    failure = run.failure("u2")
    assert (failure and failure.attempt, run.failures(), run.failure("u1")) == (2, {"u2"}, None)
    assert RunStore(run.store, "another").failures() == set()


def test_a_record_that_is_not_one(run: RunStore) -> None:
    run.store.put(run.key("u1", "measure.json"), b'{"unit_id": 3}')
    with pytest.raises(IntegrityError, match="MeasureRecord"):
        run.read("u1", "measure", MeasureRecord)


def test_every_form_of_the_experiment_is_kept(run: RunStore) -> None:
    run.freeze("a: 1\n", "1" * 64)
    run.freeze("a: 2\n", "2" * 64)
    kept = {item.key: run.store.get(item.key).decode() for item in run.store.list("runs/night/")}
    first, second, latest = (f"runs/night/experiment{part}.yaml" for part in (f"-{'1' * 12}", f"-{'2' * 12}", ""))
    assert set(kept) == {first, second, latest}
    assert kept[first].startswith(f"# digest {'1' * 64}\n# raybench ")
    assert kept[first].endswith("\na: 1\n")
    assert kept[second] == kept[latest]


def test_pickles(run: RunStore) -> None:
    again = pickle.loads(pickle.dumps(run))  # noqa: S301
    assert again.key("u", "n") == run.key("u", "n")


def test_score_name() -> None:
    assert score_name("line/test-00003.parquet") == "score-test-00003"
