from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.config.unit import Unit
from raybench.metrics.image import ImageScores
from raybench.runs.ledger import DIRECTORY_BYTES, FEW_PAGES, Ledger, append_to_ledger
from raybench.runs.records import Blob, Failure, MeasureRecord, ModelSize, UnitResult
from raybench.runs.run import RunStore
from raybench.store import Store, open_store
from tests.support.backlog import unit
from tests.support.results import NOTHING_SPENT, SPEED, made_unit

HELD_OUT = ImageScores.of(["c"], ["ok"], [0.2])
"""Of the detector that all units share."""


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return RunStore(open_store(str(tmp_path)), "night")


def finish(run: RunStore, unit_id: str, line: str = "line", more_images: int = 0) -> None:
    more = [f"{number}" for number in range(more_images)]
    values = [0.1, float(int(unit_id[1:])), *np.random.default_rng(0).random(more_images)]
    scores = ImageScores.of(["a", "b", *more], ["ok", "ng", *["ok"] * more_images], values)
    images = run.put_blob(unit_id, "images", scores.to_bytes())
    held_out = run.put_blob(f"detector-{line}", "held_out", HELD_OUT.to_bytes())
    result = replace(result_of(unit_id, images, held_out), line=line)
    run.commit(unit_id, "quality", result.judged)
    run.commit(unit_id, "finished", result)


def result_of(unit_id: str, images: Blob, held_out: Blob) -> UnitResult:
    return made_unit(unit_id, "line", "fake", images=images, held_out=held_out)


def units(*names: str, line: str = "line") -> list[Unit]:
    """Return units of a line that have these ids."""
    made = [unit(line, seed) for seed in range(len(names))]
    for one, name in zip(made, names, strict=True):
        vars(one).update(unit_id=name, detector_id=f"detector-{line}")
    return made


def without_units(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing below `units/` can be read or listed."""

    def refused(store: Store, key: str) -> Any:
        assert not key.startswith("units/")
        return original[0](store, key)

    original = (Store.get, Store.list)
    monkeypatch.setattr(Store, "get", refused)
    monkeypatch.setattr(Store, "list", lambda store, prefix="": iter(_listed(original[1], store, prefix)))


def _listed(original: Any, store: Store, prefix: str) -> list[Any]:
    assert not prefix.startswith("units/")
    return list(original(store, prefix))


def test_finished_units_are_known_without_touching_them(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"u{number}" for number in range(5)]
    for name in names:
        finish(run, name)
    append_to_ledger(run, names)
    without_units(run, monkeypatch)
    ledger = Ledger.read(run, whole=True)
    assert ledger.done == set(names)
    assert ledger.commits(units(*names)) == {name: {"finished"} for name in names}
    remembering = RunStore(run.store, run.name, ledger)
    result = remembering.read("u3", "finished", UnitResult)
    assert result is not None
    assert ImageScores.from_bytes(remembering.get_blob(result.judged.images)).scores.tolist() == [0.1, 3.0]
    assert ImageScores.from_bytes(remembering.get_blob(result.trained.held_out)).scores.tolist() == [0.2]
    assert result == result_of("u3", result.judged.images, result.trained.held_out)


def test_a_stale_ledger_is_made_good_from_the_store(run: RunStore) -> None:
    finish(run, "u1")
    append_to_ledger(run, ["u1"])
    finish(run, "u2")
    run.record_failure("u3", Failure("train", "ValueError", "no", "Traceback", 1))
    ledger = Ledger.read(run)
    assert ledger.done == {"u1"}
    found = ledger.commits(units("u1", "u2", "u3", "u4"))
    assert found == {"u1": {"finished"}, "u2": {"quality", "finished"}, "u3": {"failure"}}


def test_without_a_ledger_everything_is_looked_up(run: RunStore) -> None:
    finish(run, "u1")
    assert Ledger.read(run).done == set()
    assert Ledger.read(run).commits(units("u1")) == {"u1": {"quality", "finished"}}


def test_a_unit_has_the_commits_of_its_detector(run: RunStore) -> None:
    [one] = units("u1")
    record = MeasureRecord(one.detector_id, SPEED, ModelSize(1.0, 1), NOTHING_SPENT)
    run.commit(one.detector_id, "measure", record)
    assert Ledger.read(run).commits([one]) == {"u1": {"measure"}}
    run.record_failure("u1", Failure("score", "ValueError", "no", "Traceback", 1))
    assert Ledger.read(run).commits([one]) == {"u1": {"measure", "failure"}}


def test_units_that_are_not_finished_are_not_entered(run: RunStore) -> None:
    append_to_ledger(run, ["u1"])
    assert list(run.store.list("runs/night/ledger/")) == []


@pytest.mark.parametrize("cut", [0, 10, -30])
def test_a_damaged_page_is_left_out(run: RunStore, cut: int) -> None:
    finish(run, "u1")
    append_to_ledger(run, ["u1"])
    (page,) = run.store.list("runs/night/ledger/")
    run.store.put(page.key, run.store.get(page.key)[:cut])
    assert Ledger.read(run).done == set()


def test_damage_anywhere_costs_requests_and_nothing_else(run: RunStore) -> None:
    names = [f"u{number}" for number in range(3)]
    for name in names:
        finish(run, name)
    append_to_ledger(run, names)
    (page,) = run.store.list("runs/night/ledger/")
    whole = run.store.get(page.key)
    for start in range(0, len(whole), 41):
        data = np.frombuffer(whole, np.uint8).copy()
        data[start : start + 20] ^= 255
        run.store.put(page.key, data.tobytes())
        for ledger in (Ledger.read(run, whole=True), Ledger.read(run).fetch(units(*names))):
            remembering = RunStore(run.store, run.name, ledger)
            for name in names:
                result = remembering.read(name, "finished", UnitResult)
                assert result is not None
                assert result == result_of(name, result.judged.images, result.trained.held_out)
                blobs = result.judged.images, result.trained.held_out
                assert [remembering.get_blob(blob) for blob in blobs] == [run.store.get(blob.key) for blob in blobs]


def test_a_damaged_entry_costs_itself_alone(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["u1", "u2"]
    for name in names:
        finish(run, name)
    append_to_ledger(run, names)
    (page,) = run.store.list("runs/night/ledger/")
    data = np.frombuffer(run.store.get(page.key), np.uint8).copy()
    data[60:120] ^= 255  # of the first entry, the result of u1
    run.store.put(page.key, data.tobytes())
    without_units(run, monkeypatch)
    ledger = Ledger.read(run).fetch(units(*names))
    assert ledger.done == set(names)
    assert ledger.get(run.key("u1", "finished.json")) is None
    assert RunStore(run.store, run.name, ledger).read("u2", "finished", UnitResult) is not None


def test_a_line_is_read_without_the_others(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {f"u{number}": f"line-{number % 4}" for number in range(24)}
    for name, line in lines.items():
        finish(run, name, line, more_images=40_000)
    append_to_ledger(run, list(lines))
    (page,) = run.store.list("runs/night/ledger/")
    read = counted(monkeypatch)
    ledger = Ledger.read(run)
    assert ledger.done == set(lines)
    assert read == [DIRECTORY_BYTES]
    mine = [name for name, line in lines.items() if line == "line-2"]
    ledger.fetch(units(*mine, line="line-2"))
    assert len(read) == 3, "results and scores of a line lie side by side"
    assert sum(read) < DIRECTORY_BYTES + 0.3 * page.size
    got = {name for name in lines if ledger.get(run.key(name, "finished.json")) is not None}
    assert got >= set(mine)
    remembering = RunStore(run.store, run.name, ledger)
    without_units(run, monkeypatch)
    for name in mine:
        result = remembering.read(name, "finished", UnitResult)
        assert result is not None
        assert len(remembering.get_blob(result.judged.images)) == result.judged.images.size
    read.clear()
    Ledger.read(run).fetch(units(*lines), scores=False)
    assert sum(read) < 0.2 * page.size
    read.clear()
    Ledger.read(run, whole=True)
    assert read == [page.size]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the lengths of the ranges that are read from here on."""
    read: list[int] = []
    original = Store.get_range

    def counting(store: Store, key: str, start: int, length: int) -> bytes:
        read.append(length)
        return original(store, key, start, length)

    monkeypatch.setattr(Store, "get_range", counting)
    return read


def test_what_is_merged_while_it_is_read_comes_from_the_store(run: RunStore) -> None:
    finish(run, "u1", more_images=40_000)
    append_to_ledger(run, ["u1"])
    ledger = Ledger.read(run)
    (page,) = run.store.list("runs/night/ledger/")
    run.store.delete(page.key)
    ledger.fetch(units("u1"))
    result = RunStore(run.store, run.name, ledger).read("u1", "finished", UnitResult)
    assert result is not None


@pytest.mark.parametrize("whole", [True, False])
def test_two_drivers_that_merge_at_once_lose_nothing(run: RunStore, whole: bool) -> None:
    names = [f"u{number}" for number in range(2 * FEW_PAGES)]
    for name in names:
        finish(run, name)
        append_to_ledger(run, [name])
    late = f"u{len(names)}"
    first, second = Ledger.read(run, whole), Ledger.read(run, whole)
    finish(run, late)
    append_to_ledger(run, [late])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda ledger: ledger.merge(units(*names, late)), [first, second]))
    after = Ledger.read(run)
    assert after.done == {*names, late}
    assert len(after.pages) == 2 or not whole, "one that reads a page after it has gone writes what it has"


def test_merged_pages_keep_the_scores_of_held_back_images(run: RunStore) -> None:
    """They lie in the folders of detectors, the results in those of units."""
    held = {}
    for number in range(FEW_PAGES + 1):
        finish(run, f"u{number}")
        append_to_ledger(run, [f"u{number}"])
        result = run.read(f"u{number}", "finished", UnitResult)
        assert result is not None
        held[f"u{number}"] = result.trained.held_out.key
    Ledger.read(run).merge(units(*held))
    after = Ledger.read(run, whole=True)
    assert len(after.pages) == 1
    assert all(after.get(key) is not None for key in held.values())


def test_a_ledger_does_not_grow_with_the_past(run: RunStore) -> None:
    names = [f"u{number}" for number in range(FEW_PAGES + 1)]
    for name in names:
        finish(run, name)
        append_to_ledger(run, [name])
    Ledger.read(run).merge(units(*names[-2:]))
    after = Ledger.read(run)
    assert (after.done, len(after.pages)) == (set(names[-2:]), 1)
    assert after.commits(units(*names)).keys() == set(names), "what it lacks is looked up"


def test_a_damaged_page_stops_nobody_who_forgets(run: RunStore) -> None:
    for name in ("u1", "u2"):
        finish(run, name)
    append_to_ledger(run, ["u1", "u2"])
    (page,) = run.store.list("runs/night/ledger/")
    data = np.frombuffer(run.store.get(page.key), np.uint8).copy()
    data[60:120] ^= 255
    run.store.put(page.key, data.tobytes())
    Ledger.read(run).forget({"u2"})
    assert Ledger.read(run).done <= {"u1"}


def test_the_same_units_make_the_same_page(run: RunStore) -> None:
    finish(run, "u1")
    append_to_ledger(run, ["u1"])
    append_to_ledger(run, ["u1"])
    assert len(list(run.store.list("runs/night/ledger/"))) == 1
