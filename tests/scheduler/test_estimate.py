"""From units that were done to the prediction for others, without a cluster."""

from __future__ import annotations

import random
import shutil
import statistics
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.analysis.cost_report import format_estimate
from raybench.config.experiment import Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.pack import PackOptions, add, pack
from raybench.errors import InputError
from raybench.report.annotations.read import import_labels
from raybench.report.publish import publish_again
from raybench.runs.cost_model import CostEstimate, Work
from raybench.runs.ledger import append_to_ledger
from raybench.runs.records import Phase
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Node, capacity_of
from raybench.scheduler.estimate import (
    FreeCapacity,
    ResourceRequest,
    Schedule,
    estimate_plan,
    estimate_schedule,
    in_order,
    simulate,
)
from raybench.scheduler.gpu_share import GpuShares
from raybench.store import open_store
from raybench.worker.context import WorkerContext
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.timing import measure
from raybench.worker.train import train
from tests.support.backlog import manifest, unit
from tests.support.made_run import all_commits

BOX = (Node("box", 2, 0),)
LINES = {"a": manifest("a", 4)}


def night(store: Path, **changes: object) -> Plan:
    settings: dict[str, object] = {
        "name": "night",
        "store": str(store),
        "lines": ("strip",),
        "models": (ModelChoice(name="fake"),),
        "seeds": (0, 1),
        "false_alarm_budget": 0.2,
        "input": InputChoice(pixels=64 * 64),
        "squashed_twins": False,
        "resources": Resources(measure_s=0.05, price_per_hour=36.0),
    }
    return make_plan(Experiment.model_validate(settings | changes))


def finish(plan: Plan, cache: Path, count: int) -> None:
    """Do the first units of the plan, as the tasks and the aggregator do."""
    run = RunStore.of(plan)
    site = WorkerContext(run, plan.store.sub("lines"), cache, "cpu", 1, measure_s=0.05)
    for one in plan.units[:count]:
        lines = plan.manifests[one.line]
        train(one, lines, site)
        for shard in lines.scored_shards:
            score(one, lines, shard, site)
        merge(one, lines, run, Partials())
        measure(one, lines, site)
        finalize(one, run)
    append_to_ledger(run, [one.unit_id for one in plan.units[:count]])


def test_added_test_images_are_scored_alone_and_train_nothing(strips: Path, tmp_path: Path) -> None:
    source, lines = tmp_path / "source", open_store(str(tmp_path)).sub("lines")
    shutil.copytree(strips, source)
    pack(open_store(str(source)), lines, "strip", PackOptions(shard_rows=4))
    plan = night(tmp_path)
    cache = tmp_path / "cache"
    cache.mkdir()
    finish(plan, cache, 2)
    rng = np.random.default_rng(0)
    for number in range(10):
        cv2.imwrite(str(source / "test/good" / f"new-{number}.png"), rng.integers(0, 255, (200, 320), np.uint8))
    add(open_store(str(source)), lines, "strip", PackOptions(shard_rows=4))
    more = night(tmp_path)
    found = estimate_plan(more, BOX)
    assert (found.units, found.trains, found.scores, found.judges) == (2, 0, 20, 0)
    before = all_commits(RunStore.of(plan))
    finish(more, cache, 2)
    new = {name for owner, names in all_commits(RunStore.of(more)).items() for name in names - before.get(owner, set())}
    assert (
        sum(name.startswith("scored-") for name in new) == 3
    )  # 10 images in shards of 4, the same names for each unit
    assert "train" not in new
    (row,) = publish_again(more).rows
    assert row.finished is not None
    assert (row.finished.test.ok, row.finished.test.ng) == (16, 6)


def test_a_run_s_own_units_predict_the_rest_and_its_report_predicts_for_others(strips: Path, tmp_path: Path) -> None:
    pack(open_store(str(strips)), open_store(str(tmp_path)).sub("lines"), "strip", PackOptions(shard_rows=4))
    plan = night(tmp_path)
    assert estimate_plan(plan, BOX).predicted is None
    cache = tmp_path / "cache"
    cache.mkdir()
    finish(plan, cache, 1)
    half = estimate_plan(plan, BOX)
    assert (half.units, half.bases) == (1, {"recorded": 1})
    assert half.predicted is not None
    assert 0 < half.predicted.wall_s < 600
    assert any("1 units to do, 2 tasks at once" in text for text in format_estimate(half, 36.0))

    file = tmp_path / "decisions.csv"
    file.write_text("image_id,decision\ntest/good/000.png,ng\n")
    import_labels(plan.line("strip"), file)
    again = estimate_plan(night(tmp_path), BOX)
    assert (again.units, again.trains, again.scores, again.judges) == (2, 1, 12, 1)
    with pytest.raises(InputError, match="no unit of night has ended on its lines as they are packed now"):
        publish_again(night(tmp_path))
    file.write_text("image_id,decision\ntest/good/000.png,ok\n")
    import_labels(night(tmp_path).line("strip"), file)

    other = night(tmp_path, name="other", seeds=(5, 6, 7))
    assert estimate_plan(other, BOX).predicted is None
    board = publish_again(plan)
    assert board.rows[0].hours.units == 1
    assert board.context.spending.hours.cpu == board.rows[0].hours.cpu > 0
    assert estimate_plan(other, BOX).bases == {"recorded": 3}
    assert estimate_plan(night(tmp_path, name="new", models=(ModelChoice(name="padim"),)), BOX).bases == {"average": 2}


def seconds_of(job: Job) -> ResourceRequest:
    return ResourceRequest({"train": 10.0, "score": 2.0, "aggregate": 0.0, "measure": 3.0}[job.phase], 2, 0.5)


def test_the_simulation_by_hand() -> None:
    """Two units, four shards each. One slot: 2 × (10 + 4 × 2) + 2 × 3. Two slots, one unit on each: 18, then timing."""
    units = [unit("a", 0), unit("a", 1)]
    for tasks, wall_s in ((1, 42.0), (2, 24.0), (8, 18.0)):
        found = simulate(Backlog(units, LINES, {}), FreeCapacity(tasks, 99.0, 1), seconds_of)
        assert found == Work(wall_s, 2 * 42.0, 0.5 * 42.0)
    assert simulate(Backlog(units, LINES, {}), FreeCapacity(8, 0.5, 1), seconds_of).wall_s == 42.0
    assert simulate(Backlog(units, LINES, {}), FreeCapacity(8, 99.0, 2), seconds_of).wall_s == 15.0


def test_timing_has_a_whole_gpu_and_its_share_of_the_node() -> None:
    one = unit("a", 0)
    phases: dict[Phase, float] = {"train": 100.0, "score": 40.0, "measure": 10.0}
    ahead = Schedule([one], LINES, {}, {one.unit_id: CostEstimate(phases, "recorded", True)})
    slots = capacity_of(Resources(gpus=0.25, cpus=2), [Node("g", 8, 1)])
    found = estimate_schedule(ahead, slots, GpuShares(0.25)).predicted
    assert found is not None
    assert found.wall_s == pytest.approx(120.0)
    assert [found.cpu_s, found.gpu_s] == pytest.approx([2 * 140 + 8 * 10, 0.25 * 140 + 10])


def test_as_many_detectors_are_timed_at_once_as_there_are_gpus() -> None:
    units = [unit("a", seed) for seed in range(8)]
    cost = CostEstimate({"train": 0.0, "score": 0.0, "measure": 10.0}, "recorded", True)
    ahead = Schedule(units, LINES, {}, {each.unit_id: cost for each in units})
    found = estimate_schedule(ahead, capacity_of(Resources(gpus=1), [Node("g", 8, 4)]), GpuShares(1.0)).predicted
    assert found is not None
    assert [found.wall_s, found.cpu_s, found.gpu_s] == pytest.approx([20.0, 2 * 80.0, 80.0])


COSTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 500)), max_size=20)


class Table:
    """Costs by unit_id: a Unit holds mappings and cannot be hashed."""

    def __init__(self, costs: list[tuple[str, int]]) -> None:
        self.units = [unit(line, seed) for seed, (line, _) in enumerate(costs)]
        self.costs = {one.unit_id: float(cost) for one, (_, cost) in zip(self.units, costs, strict=True)}

    def __call__(self, one: Unit) -> float:
        return self.costs[one.unit_id]


@settings(deadline=None, max_examples=50)
@given(COSTS)
def test_every_unit_once_and_longest_first_within_a_line(costs: list[tuple[str, int]]) -> None:
    table = Table(costs)
    order = in_order(table.units, table)
    assert sorted(one.seed for one in order) == list(range(len(costs)))
    assert order == in_order(table.units, table)
    for line in {line for line, _ in costs}:
        mine = [(-table(one), one.seed) for one in order if one.line == line]
        assert mine == sorted(mine)


@settings(deadline=None, max_examples=50)
@given(COSTS)
def test_no_line_falls_behind(costs: list[tuple[str, int]]) -> None:
    """When a unit is started, every line that has units left has begun at least the share of its work that the unit's
    own line had before it."""
    table = Table(costs)
    total = {line: sum(cost for name, cost in costs if name == line) for line, _ in costs}
    begun = dict.fromkeys(total, 0.0)
    left = {line: sum(name == line for name, _ in costs) for line in total}
    for one in in_order(table.units, table):
        turn = begun[one.line] / (total[one.line] or 1)
        assert all(begun[line] / (total[line] or 1) >= turn - 1e-9 for line in total if left[line])
        begun[one.line] += table(one)
        left[one.line] -= 1


def test_without_any_record_the_order_given_stays() -> None:
    units = [unit(line, seed) for seed in range(3) for line in "ba"]
    assert in_order(units, lambda one: 0.0) == units


def makespan(order: list[Unit], table: Table, slots: int) -> float:
    lines = {one.line: manifest(one.line, 0) for one in order}

    def demand(job: Job) -> ResourceRequest:
        return ResourceRequest(table(job.unit) if job.phase == "train" else 0.0)

    return simulate(Backlog(order, lines, {}), FreeCapacity(slots, 0.0, 1), demand).wall_s


def test_it_ends_no_later_than_the_order_given_on_average() -> None:
    """Plants of unequal lines and models; against the order given, and against the bound that no order can beat."""
    rng = random.Random(7)
    ours, given_order, bounds = [], [], []
    for _ in range(20):
        sizes = {line: rng.lognormvariate(0, 0.5) for line in "abcdef"}
        models = [rng.lognormvariate(3, 1) for _ in range(10)]
        table = Table([(line, round(100 * size * model)) for model in models for line, size in sizes.items()])
        slots = rng.choice([2, 4, 8])
        ours.append(makespan(in_order(table.units, table), table, slots))
        given_order.append(makespan(table.units, table, slots))
        bounds.append(max(sum(table.costs.values()) / slots, max(table.costs.values())))
    assert statistics.mean(ours) < statistics.mean(given_order)
    assert statistics.mean(a / b for a, b in zip(ours, bounds, strict=True)) < 1.05


def test_with_one_line_it_is_graham_s_bound() -> None:
    """4/3 - 1/(3m) of the best schedule, here known: m slots that are filled exactly."""
    rng = random.Random(3)
    for slots in (2, 3, 5):
        parts: list[int] = []
        for _ in range(slots):
            cuts = sorted(rng.sample(range(1, 1000), 4))
            parts += [b - a for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)]
        rng.shuffle(parts)
        table = Table([("a", part) for part in parts])
        ended = makespan(in_order(table.units, table), table, slots)
        assert 1000 <= ended <= 1000 * (4 / 3 - 1 / (3 * slots)) + 1e-6
