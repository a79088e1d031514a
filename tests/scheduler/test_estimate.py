"""From units that were done to the prediction for others, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from raybench.analysis.cost_report import format_estimate
from raybench.config.experiment import Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import Plan, make_plan
from raybench.data.pack import PackOptions, pack
from raybench.errors import InputError
from raybench.report.annotations.read import import_labels
from raybench.report.publish import publish_again
from raybench.runs.cost_model import CostEstimate, Work
from raybench.runs.ledger import append_to_ledger
from raybench.runs.records import Phase
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Node, capacity_of
from raybench.scheduler.estimate import Schedule, estimate_plan, estimate_schedule
from raybench.scheduler.gpu_share import GpuShares
from raybench.scheduler.simulate import FreeCapacity, ResourceRequest, simulate
from raybench.store import open_store
from raybench.worker.context import WorkerContext
from raybench.worker.merge import Partials, finalize, merge
from raybench.worker.score import score
from raybench.worker.timing import measure
from raybench.worker.train import train
from tests.support.backlog import manifest, unit

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


def test_timing_has_a_whole_gpu_and_a_whole_node() -> None:
    one = unit("a", 0)
    phases: dict[Phase, float] = {"train": 100.0, "score": 40.0, "measure": 10.0}
    ahead = Schedule([one], LINES, {}, {one.unit_id: CostEstimate(phases, "recorded", True)})
    slots = capacity_of(Resources(gpus=0.25, cpus=2), [Node("g", 8, 1)])
    found = estimate_schedule(ahead, slots, GpuShares(0.25)).predicted
    assert found is not None
    assert found.wall_s == pytest.approx(120.0)
    assert [found.cpu_s, found.gpu_s] == pytest.approx([2 * 140 + 8 * 10, 0.25 * 140 + 10])
