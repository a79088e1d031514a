"""Tasks share a GPU by the memory that the first of their kind held, and its seconds are exported.

The GPU is Ray's word for a number here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raybench.cli.demo import Sizes, write_strips
from raybench.data.pack import PackOptions, pack
from raybench.scheduler.gpu_share import share
from raybench.store import open_store
from tests.support.apart import answer
from tests.support.scraping import OFTEN_REPORTED

ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    **OFTEN_REPORTED,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
}
PEAK_MB, DEVICE_MB = 2000.0, 8000.0
RUN = """
import json, sys
import ray
from tests.support.scraping import scrape
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore
from raybench.scheduler.runner import run_plan

store, peak_mb, device_mb = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
experiment = Experiment(
    name="night", store=store, lines=("strip",), seeds=tuple(range(5)), squashed_twins=False, inspect=False,
    annotation=Annotation(signals=0),
    models=(ModelChoice(name="fake", config={"gpu_memory_mb": peak_mb}),), false_alarm_budget=0.2,
    input=InputChoice(pixels=4096), resources=Resources(gpu_memory_mb=device_mb, measure_s=0.05, price_per_hour=2.0),
)
ray.init(
    address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
    _node_ip_address="127.0.0.1", object_store_memory=2**28,
)
plan = make_plan(experiment)
summary = run_plan(plan)
results = [RunStore(plan.store, "night").read(unit.unit_id, "finished", UnitResult) for unit in plan.units]
shares = {
    phase: [result.spent[phase].gpu_s / result.spent[phase].seconds for result in results]
    for phase in ("train", "score", "measure")
}
recorded = {phase: sum(result.spent[phase].gpu_s for result in results) for phase in shares}
keys = {
    phase: ("ray_raybench_gpu_seconds_total", f'model="fake",phase="{phase}",run="night"') for phase in recorded
}
found = scrape(until=lambda found: all(found.get(keys[phase], 0) >= recorded[phase] for phase in keys))
exported = {phase: found.get(keys[phase], 0) for phase in keys}
took = summary.board.context.spending.forecast.took.gpu_s
failed = len(summary.failed)
print(json.dumps({"shares": shares, "recorded": recorded, "exported": exported, "took_gpu_s": took, "failed": failed}))
ray.shutdown()
"""


@pytest.mark.cluster
def test_the_first_has_a_whole_gpu_and_the_others_what_it_held(tmp_path: Path) -> None:
    """In a process of its own: the session's cluster has no GPU. What is recorded was measured within what is exported,
    and that within what the driver sees."""
    store = open_store(str(tmp_path / "store"))
    strips = write_strips(tmp_path / "strips", Sizes(24, 3, 3, 0))
    pack(open_store(str(strips)), store.sub("lines"), "strip", PackOptions())
    found = answer(RUN, store.uri(), str(PEAK_MB), str(DEVICE_MB), environment=ENVIRONMENT)
    assert found["failed"] == 0
    expected = share(PEAK_MB, DEVICE_MB)
    assert expected == 7 / 16
    for phase in ("train", "score"):
        shares = sorted(round(value, 6) for value in found["shares"][phase])
        assert set(shares) == {expected, 1.0}
        assert shares.count(1.0) <= 3  # those submitted before the first had told
    assert {round(value, 6) for value in found["shares"]["measure"]} == {1.0}
    assert set(found["exported"]) == {"train", "score", "measure"}
    for phase, exported_s in found["exported"].items():
        assert 0 < found["recorded"][phase] <= exported_s, phase
    assert sum(found["exported"].values()) <= found["took_gpu_s"]
