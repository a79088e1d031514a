"""Which units begin: a budget is not passed, and models that surely cannot be the best leave a race."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.config.experiment import Experiment, Limits, ModelChoice, Resources
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.errors import ExperimentError, InputError
from raybench.runs.costs import Costs
from raybench.runs.run import RunStore
from raybench.scheduler.admission import Admission, Budget, Race, admission
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Capacity, Node
from raybench.scheduler.estimate import plan_schedule
from raybench.scheduler.runner import run_plan
from raybench.store import Store
from tests.support.backlog import manifest, together, unit
from tests.support.made_run import finish, planned, site_of

CPU = Capacity(2, 1, 0.0, "cpu", (Node("a", 2, 0),))


def spend(budget: Budget, units: list[Unit], hours: dict[str, float], window: int, shuffle: random.Random) -> Backlog:
    """Work units off, so many jobs at once; each one's first job takes all of its hours."""
    gate = Admission(budget)
    backlog = Backlog(units, {"line": manifest("line", 1)}, {}, 0, gate.answer)
    running: list[Job] = []
    while True:
        while len(running) < window and (job := backlog.take(any(one.phase != "measure" for one in running))):
            running.append(job)
        if not running:
            return backlog
        job = running.pop(shuffle.randrange(len(running)))
        if job.phase == "train":
            gate.charge(job.unit, hours[job.unit.unit_id] * 3600, 0.0)
        if job.phase == "measure":
            gate.ended(job.unit)
        backlog.finish(job)


@given(
    st.lists(st.floats(0.1, 5.0), min_size=1, max_size=12),
    st.floats(0.05, 30.0),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_a_budget_is_never_passed_where_costs_are_known(
    hours: list[float], limit: float, window: int, shuffle: random.Random
) -> None:
    units = [unit("line", seed) for seed in range(len(hours))]
    takes = dict(zip((one.unit_id for one in units), hours, strict=True))
    budget = Budget(limit, lambda one, with_fit: takes[one.unit_id])
    backlog = spend(budget, units, takes, window, shuffle)
    assert budget.used_h <= limit + 1e-9
    done = backlog.tallies["measure"].done
    assert done + len(backlog.left_out) == len(units)
    assert set(backlog.left_out.values()) <= {"budget"}
    assert all(tally.done == tally.total for tally in backlog.tallies.values()), "nothing is waited for"
    assert all(takes[unit_id] > limit - budget.used_h - 1e-9 for unit_id in backlog.left_out) or window > 1
    if sum(hours) <= limit:
        assert not backlog.left_out


def test_units_that_nothing_is_known_of_cost_what_those_of_their_model_did() -> None:
    budget = Budget(10.0, lambda one, with_fit: None)
    first, *others = (unit("line", seed) for seed in range(4))
    assert budget.answer(first) == "begin"
    budget.charge(first, 4.0)
    budget.ended(first)
    assert [budget.answer(other) for other in others] == ["begin", "budget", "budget"]
    other_model = replace(others[1], model="quick")
    budget.charge(others[0], 1.0)
    budget.ended(others[0])
    assert budget.answer(other_model) == "begin", "2.5 hours, as all have taken on average"


def test_a_detector_for_several_lines_is_paid_for_once() -> None:
    budget = Budget(7.0, lambda one, with_fit: 1.0 + 4.0 * with_fit)
    assert [budget.answer(one) for one in together(["a", "b", "c", "d"], 0)] == ["begin", "begin", "begin", "budget"]


def planned_with(experiment: Experiment, limits: Limits, **resources: float) -> Plan:
    changed = {"limits": limits, "resources": Resources(gpus=0.0, **resources)}
    return make_plan(experiment.model_copy(update=changed))


def test_a_budget_is_of_money_or_of_gpu_hours(strips: Path, tmp_path: Path) -> None:
    experiment = planned(tmp_path, strips, 8).experiment

    def made(plan: Plan, capacity: Capacity = CPU) -> Admission:
        schedule = plan_schedule(plan, {}, Costs(), capacity)
        return admission(plan, RunStore.of(plan), schedule, capacity, lambda unit, phase: 0.5)

    assert made(planned_with(experiment, Limits())).budget is None
    bought = made(planned_with(experiment, Limits(budget=3.0), price_per_hour=1.5)).budget
    assert bought
    assert bought.limit_h == 2.0
    gpu = replace(CPU, gpus=1.0, device="cuda", nodes=(Node("a", 2, 1),))
    both = made(planned_with(experiment, Limits(budget=3.0, gpu_hours=1.0), price_per_hour=1.5), gpu).budget
    assert both
    assert both.limit_h == 1.0
    with pytest.raises(InputError, match=r"limits.gpu_hours limits nothing"):
        made(planned_with(experiment, Limits(gpu_hours=1.0)))


def test_a_budget_without_a_price_is_refused() -> None:
    asked = {"name": "x", "store": "s", "lines": ["a"], "models": ["padim"], "limits": {"budget": 3}}
    with pytest.raises(ExperimentError, match=r"resources: limits.budget needs price_per_hour"):
        Experiment.model_validate(asked)
    Experiment.model_validate(asked | {"resources": {"price_per_hour": 2.5}})


def racing(folder: Path, images: Path, seeds: int) -> Plan:
    models = (ModelChoice(name="fake"), ModelChoice(name="fake", label="blind", config={"grid": 1}))
    experiment = planned(folder, images, 8, *models).experiment
    return make_plan(experiment.model_copy(update={"seeds": tuple(range(seeds)), "race": 0.02}))


def raced(plan: Plan, chances: Callable[[str, int], dict[str, float]], window: int = 2) -> tuple[Backlog, list[str]]:
    race = Race(plan, RunStore.of(plan), 0.02, ())
    race.chances = chances  # type: ignore[method-assign, assignment]
    gate = Admission(race=race)
    units = sorted(plan.units, key=lambda one: one.seed)
    backlog = Backlog(units, plan.manifests, {}, 0, gate.answer)
    begun, running = list[str](), list[Job]()
    while running or backlog.waiting:
        while len(running) < window and (job := backlog.take(bool(running))):
            running.append(job)
            if job.phase == "train":
                begun.append(f"{job.unit.model} {job.unit.seed}")
        if running:
            ended = running.pop(0)
            if ended.phase == "measure":
                gate.ended(ended.unit)
            backlog.finish(ended)
    return backlog, begun


def test_further_seeds_of_a_model_that_cannot_win_are_left_out(strips: Path, tmp_path: Path) -> None:
    plan = racing(tmp_path, strips, 3)
    asked = []

    def chances(line: str, seeds: int) -> dict[str, float]:
        asked.append((line, seeds))
        return {"fake": 0.99, "blind": 0.5 if seeds == 1 else 0.01}

    backlog, begun = raced(plan, chances)
    assert begun == ["fake 0", "blind 0", "fake 1", "blind 1", "fake 2"]
    assert asked == [("strip", 1), ("strip", 2)], "once for all models of a line"
    assert list(backlog.left_out.values()) == ["race"]
    assert all(tally.done == tally.total for tally in backlog.tallies.values())


def test_a_model_without_a_standing_goes_on(strips: Path, tmp_path: Path) -> None:
    """As one that is not admissible because of its threshold: nothing says that it is worse."""
    backlog, begun = raced(racing(tmp_path, strips, 2), lambda line, seeds: {"fake": 1.0})
    assert len(begun) == 4
    assert backlog.left_out == {}


def test_the_chances_are_those_of_the_verdict(strips: Path, tmp_path: Path) -> None:
    plan = racing(tmp_path / "store", strips, 2)
    race = Race(plan, RunStore.of(plan), 0.02, ())
    for one in plan.units:
        if one.seed == 0:
            finish(one, plan.manifests["strip"], site_of(plan, tmp_path))
    found = race.chances("strip", 1)
    assert found.keys() == {"fake", "blind"}
    assert found["fake"] > 0.8 > 0.4 > found["blind"]


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_run_with_a_race_and_then_with_a_budget(experiment: Experiment, packed: Store) -> None:
    models = (*experiment.models, ModelChoice(name="fake", label="blind", config={"grid": 1}))
    chosen = experiment.model_copy(update={"models": models, "seeds": (0, 1), "race": 0.4})
    summary = run_plan(make_plan(chosen))
    rows = {row.model: row for row in summary.board.rows}
    assert (rows["fake"].seeds, rows["blind"].seeds) == ((0, 1), (0,))
    assert summary.text == "4 units: 3 done now, 0 done before, 0 failed, 1 left out"
    assert summary.board.context.pending == 0
    again = run_plan(make_plan(chosen))
    assert again.text == "4 units: 0 done now, 3 done before, 0 failed, 1 left out"
    assert again.board.rows == summary.board.rows
    poor = chosen.model_copy(
        update={
            "race": None,
            "seeds": (0, 1, 2),
            "limits": Limits(budget=1e-9),
            "resources": chosen.resources.model_copy(update={"price_per_hour": 1.0}),
        }
    )
    summary = run_plan(make_plan(poor))
    assert summary.text == "6 units: 0 done now, 3 done before, 0 failed, 3 left out"
    assert summary.board.context.pending == 3


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_unit_that_fails_in_each_command_is_tried_so_often(experiment: Experiment) -> None:
    broken = ModelChoice(name="fake", label="broken", config={"fail_in": "fit"})
    changed = {
        "models": (*experiment.models, broken),
        "resources": experiment.resources.model_copy(update={"attempts": 2}),
    }
    plan = make_plan(experiment.model_copy(update=changed))
    texts = [run_plan(plan).text for _ in range(3)]
    assert texts == [
        "2 units: 1 done now, 0 done before, 1 failed",
        "2 units: 0 done now, 1 done before, 1 failed",
        "2 units: 0 done now, 1 done before, 0 failed, 1 left out",
    ]
    once_more = run_plan(plan, retry_failed=True)
    assert [failure.attempt for failure in once_more.failed.values()] == [3]
    (row,) = (row for row in once_more.board.rows if row.model == "broken")
    assert row.failures[0].attempt == 3
