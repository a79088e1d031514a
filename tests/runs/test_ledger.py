from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.config.unit import Unit
from raybench.metrics.image import ImageScores
from raybench.runs.ledger import FEW_PAGES, Ledger, append_to_ledger
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


def finish(run: RunStore, unit_id: str) -> None:
    scores = ImageScores.of(["a", "b"], ["ok", "ng"], [0.1, float(int(unit_id[1:]))])
    images = run.put_blob(unit_id, "images", scores.to_bytes())
    result = result_of(unit_id, images, run.put_blob("detector", "held_out", HELD_OUT.to_bytes()))
    run.commit(unit_id, "quality", result.judged)
    run.commit(unit_id, "finished", result)


def result_of(unit_id: str, images: Blob, held_out: Blob) -> UnitResult:
    return made_unit(unit_id, "line", "fake", images=images, held_out=held_out)


def units(*names: str) -> list[Unit]:
    """Return units that have these ids."""
    made = [unit("line", seed) for seed in range(len(names))]
    for one, name in zip(made, names, strict=True):
        vars(one)["unit_id"] = name
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
    ledger = Ledger.read(run)
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


def test_a_flipped_bit_is_found(run: RunStore) -> None:
    finish(run, "u1")
    append_to_ledger(run, ["u1"])
    (page,) = run.store.list("runs/night/ledger/")
    data = np.frombuffer(run.store.get(page.key), np.uint8).copy()
    data[60:120] ^= 255
    run.store.put(page.key, data.tobytes())
    remembering = RunStore(run.store, run.name, Ledger.read(run))
    result = remembering.read("u1", "finished", UnitResult)
    assert result is not None
    assert result == result_of("u1", result.judged.images, result.trained.held_out)
    assert remembering.get_blob(result.judged.images) == run.store.get(result.judged.images.key)


def test_two_drivers_that_merge_at_once_lose_nothing(run: RunStore) -> None:
    names = [f"u{number}" for number in range(2 * FEW_PAGES)]
    for name in names:
        finish(run, name)
        append_to_ledger(run, [name])
    late = f"u{len(names)}"
    first, second = Ledger.read(run), Ledger.read(run)
    finish(run, late)
    append_to_ledger(run, [late])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda ledger: ledger.merge({*names, late}), [first, second]))
    after = Ledger.read(run)
    assert after.done == {*names, late}
    assert len(after.pages) == 2


def test_merged_pages_keep_the_scores_of_held_back_images(run: RunStore) -> None:
    """They lie in the folders of detectors, the results in those of units."""
    held = {}
    for number in range(FEW_PAGES + 1):
        finish(run, f"u{number}")
        append_to_ledger(run, [f"u{number}"])
        result = run.read(f"u{number}", "finished", UnitResult)
        assert result is not None
        held[f"u{number}"] = result.trained.held_out.key
    folders = {key.split("/")[1] for key in held.values()} | held.keys()
    Ledger.read(run).merge(folders)
    after = Ledger.read(run)
    assert len(after.pages) == 1
    assert all(after.get(key) is not None for key in held.values())


def test_a_ledger_does_not_grow_with_the_past(run: RunStore) -> None:
    names = [f"u{number}" for number in range(FEW_PAGES + 1)]
    for name in names:
        finish(run, name)
        append_to_ledger(run, [name])
    Ledger.read(run).merge(names[-2:])
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
