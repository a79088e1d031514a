"""What a store holds, and what may go: never what a kept commit names."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from raybench.cli import main, terminal
from raybench.config.experiment import ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.errors import IntegrityError
from raybench.runs.at_work import working
from raybench.runs.ledger import Ledger, append_to_ledger
from raybench.runs.retention import inventory, remove_waste, runs_in, waste_of
from raybench.runs.run import RunStore
from raybench.runs.verify import verify_run
from raybench.store import Store, open_store
from tests.support.made_run import finish, planned, site_of

OLD_S = 100 * 86400
MODELS = (ModelChoice(name="fake"), ModelChoice(name="fake", label="past", config={"grid": 4}))


@pytest.fixture(scope="module")
def finished(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a run of two models, both finished 100 days ago."""
    folder = tmp_path_factory.mktemp("finished")
    plan = planned(folder, strips, 8, *MODELS)
    run = RunStore.of(plan)
    run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
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


def test_a_finished_run_has_no_waste(run: RunStore) -> None:
    for current in (None, planned_again(run.store)):
        assert waste_of(run, current, 0).objects == 0


def test_bytes_without_a_commit_go_unless_they_are_young(run: RunStore) -> None:
    unit_id = planned_again(run.store).units[0].unit_id
    old, young = (run.put_blob(unit_id, f"scores/{name}", name.encode()) for name in ("old", "young"))
    age(path_of(run.store, old.key))
    before = keys(run.store)
    waste = waste_of(run, None, 0)
    assert [item.key for item in waste.orphans] == [old.key]
    assert (waste.shares["heat maps"].objects, waste.objects, waste.size) == (1, 1, 3)
    remove_waste(run, waste)
    assert keys(run.store) == before - {old.key}
    assert young.key in keys(run.store)


def test_units_of_the_past_go_and_what_is_kept_is_whole(run: RunStore) -> None:
    plan = plan_with(run.store, MODELS[0])
    kept, past = plan.units[0].unit_id, (set(run.commits()) - ids(plan)).pop()
    before = {key: run.store.get(key) for key in keys(run.store)}
    assert waste_of(run, plan, OLD_S + 86400).objects == 0, "not old enough"
    waste = waste_of(run, plan, 86400)
    assert past in waste.units
    assert {kind for kind, share in waste.shares.items() if share.objects} == set(waste.shares)
    remove_waste(run, waste)
    after = keys(run.store)
    assert not [key for key in after if past in key]
    assert all(run.store.get(key) == data for key, data in before.items() if kept in key)
    assert verify_run(run).problems == []
    ledger = Ledger.read(run)
    assert ledger.done == {kept}
    assert ledger.get(run.key(kept, "finished.json")) == before[run.key(kept, "finished.json")]
    assert waste_of(run, plan, 0).objects == 0


def ids(plan: Plan) -> set[str]:
    return {name for unit in plan.units for name in (unit.unit_id, getattr(unit, "detector_id", unit.unit_id))}


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
    waste = waste_of(run, planned_again(run.store), 0)
    assert not {"detector", "other"} & waste.units
    assert [item.key for item in waste.orphans] == [lonely.key]


def test_a_damaged_commit_keeps_everything(run: RunStore) -> None:
    unit_id = planned_again(run.store).units[0].unit_id
    run.store.put(run.key(unit_id, "train.json"), b"{")
    with pytest.raises(IntegrityError, match="raybench verify"):
        waste_of(run, None, 0)


def test_the_inventory(run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAYBENCH_OWNER", "anna")
    with working(run, "raybench run"):
        (info,) = inventory(runs_in(run.store))
    mine = [item for item in run.store.list("runs/night/") if "/at-work/" not in item.key]
    assert (info.name, info.owner, info.units) == ("night", "anna", 2)
    assert [other.what for other in info.at_work] == ["raybench run"]
    assert info.objects == len(mine) + 1
    assert time.time() - info.written < 60
    assert call(monkeypatch, "runs", run.store.uri()) == 0
    out = capsys.readouterr().out
    assert "night  anna" in out
    assert "1 run, 0.0" in out
    assert call(monkeypatch, "runs", run.store.uri(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["units"] == 2


def test_gc_says_first_what_would_go_and_leaves_a_run_at_work_alone(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_with(run.store, MODELS[0])
    run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
    before = keys(run.store)
    command = ("gc", run.store.uri(), "--keep-current", "--older", "90d")
    assert call(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "night: 1 units of the past, " in out or "night: 2 units of the past, " in out
    assert "nothing was removed; --yes removes it" in out
    assert keys(run.store) == before
    with working(run, "raybench run"):
        assert call(monkeypatch, *command, "--yes") == 0
        assert "night: left as it is" in capsys.readouterr().err
    assert keys(run.store) >= before
    assert call(monkeypatch, *command, "--yes") == 0
    assert "removed: " in capsys.readouterr().out
    assert verify_run(run).problems == []
    assert Ledger.read(run).done == {plan.units[0].unit_id}
    assert call(monkeypatch, "gc", run.store.uri(), "--older", "soon") == terminal.BAD_INPUT


def test_rm_removes_a_run_and_nothing_else(
    run: RunStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.store.put("costs/night.json", b"{}")
    run.store.put("runs/nightly/experiment.yaml", b"another run")
    before = keys(run.store)
    assert call(monkeypatch, "rm", run.store.uri("runs/night")) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert keys(run.store) == before
    with working(run, "raybench run"):
        assert call(monkeypatch, "rm", run.store.uri("runs/night"), "--yes") == terminal.BAD_INPUT
    assert call(monkeypatch, "rm", run.store.uri("runs/night"), "--yes") == 0
    left = {key for key in before if not key.startswith(("runs/night/", "costs/night.json"))}
    assert keys(run.store) == left
    assert "runs/nightly/experiment.yaml" in left
    assert any(key.startswith("lines/strip/") for key in left)
    for name in ("runs/night", "lines/strip", "runs/nightly/predictions/x"):
        assert call(monkeypatch, "rm", run.store.uri(name), "--yes") == terminal.BAD_INPUT


def test_on_s3(run: RunStore, bucket: Store) -> None:
    """Times are the server's, so that nothing is old there yet."""
    for item in run.store.list():
        bucket.put(item.key, run.store.get(item.key))
    there = RunStore(bucket, "night")
    (info,) = inventory(runs_in(bucket))
    assert (info.units, info.objects) == (2, len([key for key in keys(bucket) if key.startswith("runs/night/")]))
    assert abs(info.written - time.time()) < 60
    plan = plan_with(run.store, MODELS[0])
    assert waste_of(there, plan, 3600).objects == 0
    remove_waste(there, waste_of(there, plan, 0))
    assert verify_run(there).problems == []
    assert Ledger.read(there).done == {plan.units[0].unit_id}
