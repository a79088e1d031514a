"""The plans that a run has had, and what has changed since."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raybench.config.experiment import InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import ID_CHANGE, TrainingLine
from raybench.errors import IntegrityError
from raybench.runs import plans
from raybench.runs.plans import Uses, changes_since, forget_plans, record_plan, uses_of
from raybench.runs.run import RunStore, versions
from raybench.store import Store
from tests.support.made_run import planned

MODELS = (ModelChoice(name="fake"), ModelChoice(name="fake", label="past", config={"grid": 4}))


@pytest.fixture(scope="module")
def plan(strips: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(tmp_path_factory.mktemp("store"), strips, 8, *MODELS)


def folders(plan: Plan) -> frozenset[str]:
    return frozenset(folder for unit in plan.units for folder in unit.folders)


def of_one_model(plan: Plan) -> Plan:
    return replace(plan, units=plan.units[:1])


def test_earlier_plans_are_known_until_they_are_forgotten(plan: Plan, bucket: Store) -> None:
    run = RunStore(bucket, "night")
    assert uses_of(run) == Uses()
    for each in (plan, of_one_model(plan)):
        record_plan(run, each)
        time.sleep(1.1)  # S3 counts whole seconds
    assert uses_of(run) == Uses(folders(of_one_model(plan)), folders(plan) - folders(of_one_model(plan)))
    forget_plans(run, 3600.0)
    assert uses_of(run).all == folders(plan)
    forget_plans(run, 0.0)
    assert uses_of(run) == Uses(folders(of_one_model(plan)))
    record_plan(run, plan)
    time.sleep(1.1)
    record_plan(run, of_one_model(plan))
    assert uses_of(run).current == folders(of_one_model(plan)), "a plan that comes back is the latest again"


def test_a_damaged_record_is_no_plan_without_units(plan: Plan, bucket: Store) -> None:
    run = RunStore(bucket, "night")
    bucket.put("runs/night/plans/x.json", b"[]")
    for read in (uses_of, lambda run: changes_since(run, plan)):
        with pytest.raises(IntegrityError, match=r"plans/x.json is not a PlanRecord"):
            read(run)


@pytest.fixture
def run(plan: Plan) -> RunStore:
    """A run whose latest plan is `plan`."""
    run = RunStore(plan.store, "night")
    record_plan(run, plan)
    return run


def test_the_same_plan_has_no_changes(plan: Plan, run: RunStore) -> None:
    assert changes_since(run, plan) == []
    assert changes_since(RunStore(plan.store, "fresh"), plan) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"training_digest": "t", "line_digest": "i"}, "other OK training images: strip (2 units)"),
        ({"line_digest": "i"}, "other test images, labels or masks: strip (2 units)"),
        ({"timed_on": "line-pc"}, "timed on another machine: strip (2 units)"),
        ({"revision": "torch 2.8"}, "another revision: strip (2 units)"),
        ({"seed": 7}, "new: fake, past (2 units)"),
    ],
)
def test_what_has_changed_is_said(plan: Plan, run: RunStore, change: dict[str, object], text: str) -> None:
    changed = replace(plan, units=tuple(replace(unit, **change) for unit in plan.units))  # type: ignore[arg-type]
    said = changes_since(run, changed)
    assert said[0] == text
    assert said[1:] == (["no longer in the experiment: fake, past (2 units)"] if "seed" in change else [])


def test_settings_of_a_model_and_of_the_experiment(plan: Plan, run: RunStore) -> None:
    other = (MODELS[0], ModelChoice(name="fake", label="past", config={"grid": 16}))
    changed = make_plan(plan.experiment.model_copy(update={"models": other}))
    assert changes_since(run, changed) == ["other settings: past (1 unit)"]
    changed = make_plan(plan.experiment.model_copy(update={"input": InputChoice(pixels=128 * 128)}))
    assert changes_since(run, changed) == ["other settings: fake, past (2 units)"]
    changed = make_plan(plan.experiment.model_copy(update={"models": MODELS[:1]}))
    assert changes_since(run, changed) == ["no longer in the experiment: past (1 unit)"]


def test_other_images_of_another_line_of_the_group(plan: Plan) -> None:
    units = [
        replace(plan.units[0], together=tuple(TrainingLine(name, digest, plan.units[0].protocol) for name in "ab"))
        for digest in ("x", "y")
    ]
    run = RunStore(plan.store, "group")
    record_plan(run, replace(plan, units=tuple(units[:1])))
    assert changes_since(run, replace(plan, units=tuple(units[1:]))) == ["other OK training images: strip (1 unit)"]


def test_units_of_an_older_raybench_are_done_again(plan: Plan, run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "ID_VERSION", 1000)
    monkeypatch.setattr(plans, "ID_CHANGE", "ties count half")
    (text,) = changes_since(run, plan)
    assert text.endswith("made the units of this run; all are done again, because ties count half")


def test_plans_of_a_raybench_before_are_read(plan: Plan, run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = run.store.list("runs/night/plans/")
    record = json.loads(run.store.get(item.key))
    del record["versions"]
    for unit in record["units"]:
        del unit["revision"]
    run.store.put(item.key, json.dumps(record | {"raybench": "0.1.0", "id_version": 9}).encode())
    assert uses_of(run).current
    assert changes_since(run, plan) == [
        f"an earlier raybench made the units of this run; all are done again, because {ID_CHANGE}"
    ]


def test_an_upgrade_is_said(plan: Plan, run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {**versions(), "torch": "9.9"}
    before = versions()["torch"]
    monkeypatch.setattr(plans, "versions", lambda: now)
    told = f"torch {before} → 9.9; what is done stays as it is, another `revision` computes everything anew"
    assert changes_since(run, plan) == [told]


def test_many_names_are_counted(plan: Plan, run: RunStore) -> None:
    more = [replace(plan.units[0], model=f"m{number}", seed=number + 1) for number in range(10)]
    assert changes_since(run, replace(plan, units=(*plan.units, *more))) == [
        "new: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more (10 units)"
    ]
