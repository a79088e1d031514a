"""Runs on a node with a GPU and one without. The GPU is Ray's word for a number here.

Tasks share a GPU by the memory that the first of their kind held, and its seconds are exported. The node without one
decodes ahead of the units. Both runs are on one cluster, in a process of its own: the session has a node without GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raybench.cli.demo import Sizes, write_strips
from raybench.data.pack import PackOptions, pack
from raybench.scheduler.gpu_share import share
from raybench.store import open_store
from tests.support.apart import answer
from tests.support.scraping import OFTEN_REPORTED

pytestmark = pytest.mark.cluster
ENVIRONMENT = {
    **OFTEN_REPORTED,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
}
PEAK_MB, DEVICE_MB = 2000.0, 8000.0
LINES, SHARD_ROWS = ("strip-0", "strip-1"), 8
RUN = """
import json, sys
from pathlib import Path
import ray
from benchmarks.scale.raylets import raylets
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore
from raybench.scheduler.runner import run_plan
from tests.support.scraping import scrape

store, folder, peak_mb, device_mb = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])


def plan_of(name, lines, seeds, resources, **config):
    return make_plan(Experiment(
        name=name, store=store, lines=lines, models=(ModelChoice(name="fake", config=config),), seeds=range(seeds),
        squashed_twins=False, inspect=False, annotation=Annotation(signals=0), false_alarm_budget=0.2,
        input=InputChoice(pixels=4096), resources=Resources(measure_s=0.05, **resources),
    ))


def helped():
    plan, seen = plan_of("helped", ("*",), 3, {"gpus": 1}), set()
    ahead = RunStore(plan.store, "helped").ahead
    summary = run_plan(plan, lambda backlog: seen.update(item.key for item in ahead.list()))
    left = [item.key for item in ahead.list()]
    cached = [sorted(path.name for path in (folder / name).glob("*.u8")) for name in ("cache", "cache-of-helpers")]
    return {"failed": len(summary.failed), "seen": sorted(seen), "left": left, "cached": cached}


def shared():
    resources = {"gpu_memory_mb": device_mb, "price_per_hour": 2.0}
    plan = plan_of("shared", ("strip-0",), 5, resources, gpu_memory_mb=peak_mb)
    summary = run_plan(plan)
    results = [RunStore(plan.store, "shared").read(unit.unit_id, "finished", UnitResult) for unit in plan.units]
    shares = {
        phase: [result.spent[phase].gpu_s / result.spent[phase].seconds for result in results]
        for phase in ("train", "score", "measure")
    }
    recorded = {phase: sum(result.spent[phase].gpu_s for result in results) for phase in shares}
    keys = {
        phase: ("ray_raybench_gpu_seconds_total", f'model="fake",phase="{phase}",run="shared"') for phase in recorded
    }
    found = scrape(until=lambda found: all(found.get(keys[phase], 0) >= recorded[phase] for phase in keys))
    return {
        "failed": len(summary.failed), "shares": shares, "recorded": recorded,
        "exported": {phase: found.get(keys[phase], 0) for phase in keys},
        "took_gpu_s": summary.board.context.spending.forecast.took.gpu_s,
    }


def timed():
    plan, used = plan_of("timed", ("strip-0",), 4, {"gpus": 1}), []

    def watch(backlog):
        if backlog.tallies["aggregate"].done == 4:
            used.append(2 - ray.available_resources().get("GPU", 0))

    plan = make_plan(plan.experiment.model_copy(update={"resources": Resources(gpus=1, measure_s=4.0)}))
    summary = run_plan(plan, watch)
    results = [RunStore(plan.store, "timed").read(unit.unit_id, "finished", UnitResult) for unit in plan.units]
    measured = [result.measured for result in results]
    return {
        "failed": len(summary.failed), "most": max(used), "threads": [each.speed.threads for each in measured],
        "gpus": [each.spent.gpu_s / each.spent.seconds for each in measured],
    }


if sys.argv[5] == "several":
    with raylets(1, 6, 2, folder):
        print(json.dumps(timed()))
else:
    with raylets(1, 2, 1, folder, cpu_nodes=1):
        print(json.dumps({"helped": helped(), "shared": shared()}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of both runs."""
    return run_on(tmp_path_factory.mktemp("gpu"), "one")


def run_on(folder: Path, gpus: str) -> dict[str, Any]:
    """Run on a node with "one" GPU and one without, or on a node with "several"."""
    store = open_store(str(folder / "store"))
    strips = write_strips(folder / "strips", Sizes(24, 3, 3, 0))
    for line in LINES:
        pack(open_store(str(strips)), store.sub("lines"), line, PackOptions(shard_rows=SHARD_ROWS))
    return answer(RUN, store.uri(), str(folder), str(PEAK_MB), str(DEVICE_MB), gpus, environment=ENVIRONMENT)


def test_a_detector_is_timed_on_each_gpu_at_once(tmp_path: Path) -> None:
    timed = run_on(tmp_path, "several")
    assert timed["failed"] == 0
    assert timed["most"] == 2
    assert timed["threads"] == [3] * 4
    assert timed["gpus"] == pytest.approx([1.0] * 4)


def test_a_node_without_a_gpu_decodes_ahead(found: dict[str, Any]) -> None:
    helped = found["helped"]
    assert helped["failed"] == 0
    shards = len(LINES) * (24 // SHARD_ROWS + 1)
    of_nodes, of_helpers = helped["cached"]
    assert len(of_helpers) == shards
    assert of_helpers == of_nodes
    assert {Path(name).stem for name in helped["seen"]} <= {Path(name).stem for name in of_helpers}
    assert len(helped["seen"]) > 2
    assert helped["left"] == []


def test_the_first_has_a_whole_gpu_and_the_others_what_it_held(found: dict[str, Any]) -> None:
    """What is recorded was measured within what is exported, and that within what the driver sees."""
    shared = found["shared"]
    assert shared["failed"] == 0
    expected = share(PEAK_MB, DEVICE_MB)
    assert expected == 7 / 16
    for phase in ("train", "score"):
        shares = sorted(round(value, 6) for value in shared["shares"][phase])
        assert set(shares) == {expected, 1.0}
        assert shares.count(1.0) <= 3  # those submitted before the first had told
    assert {round(value, 6) for value in shared["shares"]["measure"]} == {1.0}
    assert set(shared["exported"]) == {"train", "score", "measure"}
    for phase, exported_s in shared["exported"].items():
        assert 0 < shared["recorded"][phase] <= exported_s, phase
    assert sum(shared["exported"].values()) <= shared["took_gpu_s"]
