"""What a store holds, and what may go: never what a kept commit names."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.cli import main, terminal
from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.errors import IntegrityError
from raybench.runs.at_work import removing, working
from raybench.runs.ledger import Ledger, append_to_ledger
from raybench.runs.plans import forget_plans, uses_of
from raybench.runs.retention import (
    forget_past_plans,
    inventory,
    remove_run,
    remove_waste,
    waste_of,
    waste_of_run,
)
from raybench.runs.run import RunStore
from raybench.runs.verify import verify_run
from raybench.store import Store, open_store
from raybench.worker.predict import prepare
from tests.support.made_run import all_commits, begin, finish, planned, site_of
from tests.support.results import FAILURE

OLD_S = 100 * 86400
MODELS = (ModelChoice(name="fake"), ModelChoice(name="fake", label="past", config={"grid": 4}))


@pytest.fixture(scope="module")
def finished(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a run of two models, both finished 100 days ago."""
    folder = tmp_path_factory.mktemp("finished")
    plan = planned(folder, strips, 8, *MODELS)
    run = begin(plan)
    for unit in plan.units:
        finish(unit, plan.manifests["strip"], site_of(plan, tmp_path_factory.mktemp("cache")))
    append_to_ledger(run, [unit.unit_id for unit in plan.units])
    run.put_report("index.html", b"<html>")
    for path in folder.rglob("*"):
        age(path)
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Store:
    """A copy of it, to remove from."""
    return open_store(str(shutil.copytree(finished, tmp_path / "store")))


@pytest.fixture
def run(store: Store) -> RunStore:
    return RunStore(store, "night")


def age(path: Path, seconds: float = OLD_S) -> None:
    os.utime(path, times=(time.time() - seconds,) * 2)


def path_of(store: Store, key: str) -> Path:
    return Path(store.uri(key).removeprefix("file://"))


def plan_with(store: Store, *models: ModelChoice) -> Plan:
    both = planned_again(store)
    return make_plan(both.experiment.model_copy(update={"models": models}))


def planned_again(store: Store) -> Plan:
    from raybench.config.plan import plan_of

    return plan_of(store.uri("runs/night"))


def keys(store: Store) -> set[str]:
    return {item.key for item in store.list()}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["raybench", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def use(run: RunStore, plan: Plan) -> RunStore:
    """Make `plan` the latest one of `run`, in its store."""
    named = replace(plan, experiment=plan.experiment.model_copy(update={"name": run.name}))
    return begin(replace(named, store=run.store))


def test_a_finished_run_has_no_waste(store: Store) -> None:
    for older_s in (None, 0.0):
        assert waste_of(store, older_s).objects == 0


def test_bytes_without_a_commit_go_unless_they_are_young(run: RunStore) -> None:
    store, unit_id = run.store, planned_again(run.store).units[0].unit_id
    old, young = (run.put_blob(unit_id, f"scores/{name}", name.encode()) for name in ("old", "young"))
    age(path_of(store, old.key))
    before = keys(store)
    with working(run, "raybench run"):
        assert waste_of(store).objects == 0, "a task may be about to commit them"
    waste = waste_of(store)
    assert [item.key for item in waste.orphans] == [old.key]
    assert (waste.shares["heat maps"].objects, waste.objects, waste.size) == (1, 1, 3)
    remove_waste(store, waste)
    assert keys(store) == before - {old.key}
    assert young.key in keys(store)


def test_units_of_the_past_go_and_what_is_kept_is_whole(run: RunStore) -> None:
    store, plan = run.store, plan_with(run.store, MODELS[0])
    use(run, plan)
    kept, past = plan.units[0].unit_id, (set(all_commits(run)) - ids(plan)).pop()
    for unit_id in (kept, past):
        run.record_failure(unit_id, FAILURE)
        age(path_of(store, f"{run.root}/failures/{unit_id}.json"))
    run.record_failure("young", FAILURE)
    before = {key: store.get(key) for key in keys(store)}
    assert waste_of(store).objects == 0, "not asked for"
    assert waste_of(store, OLD_S + 86400).objects == 0, "not old enough"
    waste = waste_of(store, 86400)
    assert past in waste.units
    assert {kind for kind, share in waste.shares.items() if share.objects} == set(waste.shares)
    remove_waste(store, waste)
    after = keys(store)
    assert not [key for key in after if past in key]
    assert run.failures() == {kept, "young"}
    assert all(store.get(key) == data for key, data in before.items() if kept in key)
    assert verify_run(run).problems == []
    ledger = Ledger.read(run, whole=True)
    assert ledger.done == {kept}
    assert ledger.get(run.key(kept, "finished.json")) == before[run.key(kept, "finished.json")]
    assert waste_of(store, 86400).objects == 0


def ids(plan: Plan) -> set[str]:
    return {folder for unit in plan.units for folder in unit.folders}


def test_what_another_run_uses_stays(run: RunStore) -> None:
    """Whether it is done or not, and whoever did it."""
    store, both = run.store, planned_again(run.store)
    use(RunStore(store, "other"), both)
    use(run, plan_with(store, MODELS[0]))
    assert waste_of(store, 86400).objects == 0
    assert waste_of_run(run).objects == 0
    use(RunStore(store, "other"), plan_with(store, MODELS[0]))
    assert waste_of(store, 0.0).units == ids(both) - ids(plan_with(store, MODELS[0]))
    assert waste_of_run(run).objects == 0, "a past plan of another run has it"


def test_what_a_run_at_work_has_in_its_ledger_stays(run: RunStore) -> None:
    use(run, plan_with(run.store, MODELS[0]))
    forget_plans(run, 0.0)
    with working(run, "raybench run"):
        assert waste_of(run.store, 0.0).objects == 0
    assert len(waste_of(run.store, 0.0).units) == 2


def test_a_run_whose_removal_is_killed_does_not_say_that_it_is_done(
    run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = list[str]()
    original = Store.delete

    def killed(store: Store, key: str) -> None:
        if key.startswith("units/") and len(deleted) > 3:
            raise KeyboardInterrupt
        deleted.append(key)
        original(store, key)

    monkeypatch.setattr(Store, "delete", killed)
    with pytest.raises(KeyboardInterrupt), removing(run.store, "raybench rm", "night"):
        remove_run(run)
    monkeypatch.undo()
    assert Ledger.read(run).done == set()
    assert any(key.startswith("units/") for key in deleted)


def test_the_detector_of_a_prediction_stays(run: RunStore, strips: Path) -> None:
    both = planned_again(run.store)
    (past,) = (unit for unit in both.units if unit.model == "past")
    prepare(run, past, both.line("strip"), open_store(str(strips / "test" / "good")), "new")
    use(run, plan_with(run.store, MODELS[0]))
    waste = waste_of(run.store, 0.0)
    assert past.detector_id not in waste.units
    assert past.unit_id in waste.units
    remove_waste(run.store, waste)
    assert verify_run(run).problems == []


def test_a_plan_is_known_while_a_unit_of_it_is_left(run: RunStore) -> None:
    both = planned_again(run.store)
    use(run, plan_with(run.store, MODELS[0]))
    forget_past_plans(run.store, 0.0)
    assert uses_of(run).all == ids(both)


def test_every_ledger_forgets_what_goes(run: RunStore) -> None:
    """Also that of a run which has long forgotten that it used the units."""
    other = RunStore(run.store, "other")
    use(other, planned_again(run.store))
    append_to_ledger(other, Ledger.read(run).done)
    for each in (run, other):
        use(each, plan_with(run.store, MODELS[0]))
        forget_plans(each, 0.0)
    remove_waste(run.store, waste_of(run.store, 0.0))
    assert Ledger.read(other).done == Ledger.read(run).done == {plan_with(run.store, MODELS[0]).units[0].unit_id}


def test_what_a_kept_commit_names_in_another_folder_stays(run: RunStore) -> None:
    """As a unit's commits name the bytes of its detector, and its result the detector itself."""
    blob, lonely = (run.put_blob("detector", name, name.encode()) for name in ("scores/0", "scores/1"))
    run.store.put(run.key("detector", "train.json"), json.dumps({"unit_id": "detector"}).encode())
    named = {"shard": vars(blob), "detector_id": "other"}
    kept = planned_again(run.store).units[0].unit_id
    run.store.put(run.key(kept, "score-x.json"), json.dumps(named).encode())
    run.store.put(run.key("other", "train.json"), b"{}")
    for folder in ("detector", "other"):
        for item in list(run.store.list(run.key(folder, ""))):
            age(path_of(run.store, item.key))
    waste = waste_of(run.store, 0.0)
    assert not {"detector", "other"} & waste.units
    assert [item.key for item in waste.orphans] == [lonely.key]


def test_a_damaged_commit_keeps_everything(run: RunStore) -> None:
    unit_id = planned_again(run.store).units[0].unit_id
    run.store.put(run.key(unit_id, "train.json"), b"{")
    with pytest.raises(IntegrityError, match="raybench verify"):
        waste_of(run.store)


def test_the_inventory(run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run.store.delete("runs/night/owner.json")
    monkeypatch.setenv("RAYBENCH_OWNER", "anna")
    with working(run, "raybench run"):
        found = inventory(run.store)
    (info,) = found.runs
    mine = [item for item in run.store.list() if item.key.startswith(("runs/night/", "units/"))]
    assert (info.name, info.owner, info.units) == ("night", "anna", 2)
    assert [other.what for other in info.at_work] == ["raybench run"]
    assert (info.objects, info.size) == (len(mine), sum(item.size for item in mine))
    assert (found.size, found.unused) == (info.size, 0)
    assert time.time() - info.written < 60
    use(RunStore(run.store, "twice"), planned_again(run.store))
    run.put_blob("lonely", "scores/0", b"1234")
    again = inventory(run.store)
    assert [info.units for info in again.runs] == [2, 2]
    assert again.unused == 4
    assert again.size < sum(info.size for info in again.runs), "the units count once"
    assert call(monkeypatch, "runs", run.store.uri()) == 0
    out = capsys.readouterr().out
    assert "night  anna" in out
    assert "2 runs, 0.0" in out
    assert "GB of units that no run uses" in out
    assert call(monkeypatch, "runs", run.store.uri(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["units"] == 2


def test_gc_says_first_what_would_go_and_leaves_what_is_at_work(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_with(run.store, MODELS[0])
    use(run, plan)
    before = keys(run.store)
    command = ("gc", run.store.uri(), "--keep-current", "--older", "90d")
    assert call(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "folders of units of the past: 2\n" in out
    assert "nothing was removed; --yes removes it" in out
    assert keys(run.store) == before
    with working(run, "raybench run"):
        assert call(monkeypatch, *command, "--yes") == 0
        assert "at work, so what night uses stays: raybench run by" in capsys.readouterr().out
    assert keys(run.store) == before
    assert call(monkeypatch, *command, "--yes") == 0
    assert "removed: " in capsys.readouterr().out
    assert verify_run(run).problems == []
    assert Ledger.read(run).done == {plan.units[0].unit_id}
    assert call(monkeypatch, "gc", run.store.uri(), "--older", "soon") == terminal.BAD_INPUT
    assert call(monkeypatch, "gc", run.store.uri("runs/night")) == terminal.BAD_INPUT


def test_rm_removes_a_run_and_nothing_else(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = plan_with(run.store, MODELS[0])
    use(RunStore(run.store, "nightly"), shared)
    run.store.put("costs/night.json", b"{}")
    before = keys(run.store)
    assert call(monkeypatch, "rm", run.store.uri("runs/night")) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert keys(run.store) == before
    with working(run, "raybench run"):
        assert call(monkeypatch, "rm", run.store.uri("runs/night"), "--yes") == terminal.BAD_INPUT
    assert call(monkeypatch, "rm", run.store.uri("runs/night"), "--yes") == 0
    of_night = ("runs/night/", "costs/night.json")
    left = {key for key in before if not key.startswith(of_night)}
    left -= {key for key in left if key.startswith("units/") and key.split("/")[1] not in ids(shared)}
    assert keys(run.store) == left
    assert verify_run(RunStore(run.store, "nightly")).problems == []
    assert any(key.startswith("lines/strip/") for key in left)
    for name in ("runs/night", "lines/strip", "runs/nightly/predictions/x"):
        assert call(monkeypatch, "rm", run.store.uri(name), "--yes") == terminal.BAD_INPUT


def test_on_s3(run: RunStore, bucket: Store) -> None:
    """Times are the server's, so that nothing is old there yet."""
    for item in run.store.list():
        bucket.put(item.key, run.store.get(item.key))
    there = RunStore(bucket, "night")
    (info,) = inventory(bucket).runs
    assert (info.units, info.objects) == (2, len([key for key in keys(bucket) if key.startswith(("runs/", "units/"))]))
    assert abs(info.written - time.time()) < 60
    plan = plan_with(run.store, MODELS[0])
    time.sleep(1.1)  # S3 counts whole seconds
    use(there, plan)
    assert waste_of(bucket, 3600).objects == 0
    remove_waste(bucket, waste_of(bucket, 0.0))
    assert verify_run(there).problems == []
    assert Ledger.read(there).done == {plan.units[0].unit_id}
