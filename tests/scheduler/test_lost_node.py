"""A node is killed with all that runs on it. The cluster is one of its own, in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raybench.cli.demo import Sizes, write_strips
from raybench.data.pack import PackOptions, pack
from raybench.store import open_store
from tests.support.apart import answer

pytestmark = pytest.mark.cluster
RUN = """
import json, sys, threading, time
from pathlib import Path
import psutil
from benchmarks.scale.raylets import raylets
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.runs.run import RunStore
from raybench.scheduler.runner import run_plan

store, folder = sys.argv[1], Path(sys.argv[2])
experiment = Experiment(
    name="spot", store=store, lines=("strip",), models=(ModelChoice(name="fake", config={"sleep_s": 3.0}),),
    seeds=(0, 1), squashed_twins=False, inspect=False, annotation=Annotation(signals=0), false_alarm_budget=0.2,
    input=InputChoice(pixels=4096), resources=Resources(measure_s=0.05, retries=0),
)


def training():
    titles = [process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline", "environ"])
              if (process.info["environ"] or {}).get("RAYBENCH_CACHE", "").startswith(str(folder))]
    return sum(title[0].startswith("ray::train") for title in titles)


def kill_a_node(cluster):
    while training() < 2:
        time.sleep(0.1)
    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)


told = []
with raylets(2, 1, 0, folder) as cluster:
    plan = make_plan(experiment)
    killer = threading.Thread(target=kill_a_node, args=(cluster,), daemon=True)
    killer.start()
    summary = run_plan(plan, tell=told.append)
    killer.join(5)
    print(json.dumps({
        "killed": not killer.is_alive(), "told": told,
        "failed": {key: vars(each) for key, each in summary.failed.items()},
        "rows": len(summary.board.rows), "seeds": summary.board.rows[0].seeds,
        "failures": sorted(RunStore.of(plan).failures()),
    }))
"""


@pytest.mark.long  # Ray takes minutes to give up a node; test_retries.py has the rule, test_chaos.py a lost node
@pytest.mark.timeout(600)
def test_its_tasks_are_done_elsewhere_without_a_try_being_counted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    strips = write_strips(tmp_path / "strips", Sizes(24, 3, 3, 0))
    pack(open_store(str(strips)), store.sub("lines"), "strip", PackOptions(shard_rows=30))
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    found = answer(RUN, store.uri(), str(tmp_path), environment=environment)
    assert found["killed"]
    assert found["failed"] == {}
    assert (found["rows"], found["seeds"], found["failures"]) == (1, [0, 1], [])
    assert any(text.startswith("nodes lost: ") for text in found["told"])
