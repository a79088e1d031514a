"""Nodes that fail: a process that has lost its GPU ends, and a node whose GPU does not compute, or that has no
credentials for the store, is left out.

The GPUs are Ray's word for a number here, and a detector raises what torch would.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray

from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import Resources
from raybench.data.pack import PackOptions, pack
from raybench.errors import GpuUnusable
from raybench.scheduler import preflight
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.cluster import alive
from raybench.scheduler.health import PROVEN, SUSPICIOUS
from raybench.store import Store, open_store
from tests.support.apart import answer

pytestmark = pytest.mark.cluster

FRAGILE = '''
import os
import time
from pathlib import Path

import numpy as np
import ray
from raybench import Detector, Scored
from raybench.errors import GpuUnusable, StoreDenied

LOST = "CUDA error: an illegal memory access was encountered"
lost = []


class Fragile(Detector):
    """Loses its GPU for good: in the first process, in each, or on one of two nodes; or lacks credentials on one."""

    def fit(self, images, context):
        self.fail()
        self.fail_on_a_bad_node()
        self.mean = np.float64(images.batch([0]).mean())

    def score(self, images):
        self.fail()
        return Scored.from_maps(images.mean(axis=3, dtype=np.float32) - np.float32(self.mean))

    def fail(self):
        folder, how = Path(self.config["folder"]), self.config["how"]
        context = ray.get_runtime_context()
        with open(folder / "calls", "a") as calls:
            calls.write(f"{how} {context.get_node_id()} {os.getpid()}\\n")
        if how == "always" or lost:
            raise RuntimeError(LOST)
        if how == "once" and self.first(folder):
            lost.append(True)
            raise RuntimeError(LOST)

    def fail_on_a_bad_node(self):
        node_id, folder = ray.get_runtime_context().get_node_id(), Path(self.config["folder"])
        how, is_bad = self.config["how"], node_id == (folder / "bad").read_text()
        if how.startswith("denied") and is_bad:
            raise StoreDenied("no credentials found")
        while how.startswith("denied") and len(self.denied(folder)) < 2:  # the bad node gets the rest meanwhile
            time.sleep(0.1)
        if how != "node":
            return
        if is_bad:
            raise GpuUnusable(f"node {node_id}, GPU 0: No CUDA GPUs are available")
        time.sleep(3)  # so that the good node leaves some work until another process of the bad one has started

    def denied(self, folder):
        rows = [row.split() for row in (folder / "calls").read_text().splitlines()]
        bad = (folder / "bad").read_text()
        return [how for how, node_id, _ in rows if how.startswith("denied") and node_id == bad]

    def first(self, folder):
        try:
            (folder / "first").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
'''
RUN = """
import json, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from raybench.config.experiment import Annotation, Experiment, InputChoice, ModelChoice, Resources
from raybench.config.plan import make_plan
from raybench.errors import RaybenchError
from raybench.scheduler.runner import run_plan

store, folder, seeds, runs = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4:]
own = {"once", "always", "node", *(f"denied{number}" for number in range(3))}


def outcome(models):
    experiment = Experiment(
        name=models[0], store=store, lines=("strip",), seeds=tuple(range(seeds)), squashed_twins=False, inspect=False,
        annotation=Annotation(signals=0), false_alarm_budget=0.2,
        models=tuple(
            ModelChoice(name="fragile:Fragile", label=model, config={"how": model, "folder": folder})
            if model in own else ModelChoice(name=model)
            for model in models
        ),
        input=InputChoice(pixels=4096), resources=Resources(gpus=1.0, measure_s=0.05, retries=1),
    )
    found = {"said": "", "failures": [], "unusable": []}
    try:
        plan = make_plan(experiment)
        summary = run_plan(plan)
        labels = {unit.unit_id: unit.model for unit in plan.units}
        found["failures"] = [(labels[unit_id], failure.message) for unit_id, failure in summary.failed.items()]
        found["unusable"] = list(summary.unusable)
    except RaybenchError as error:
        found["said"] = f"{type(error).__name__}: {error}"
    return found


node = {"num_cpus": 2, "num_gpus": 1, "include_log_monitor": False, "no_monitor": True}
cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
bad = cluster.add_node(**node)
Path(folder, "bad").write_text(bad.node_id)
ray.init(address=cluster.address, log_to_driver=False)
outcomes = [outcome(models.split(",")) for models in runs]
record = Path(folder, "calls")
calls = [row.split() for row in record.read_text().splitlines()] if record.exists() else []
print(json.dumps({"bad": bad.node_id, "runs": outcomes, "calls": calls}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    found = open_store(str(folder / "store"))
    strips = write_strips(folder / "strips", Sizes(24, 3, 3, 0))
    pack(open_store(str(strips)), found.sub("lines"), "strip", PackOptions())
    return found


@pytest.fixture(scope="module")
def found(store: Store, folder: Path) -> dict[str, Any]:
    """Two runs on one cluster of two nodes."""
    return outcomes(store, folder, "once,always", ",".join(f"denied{number}" for number in range(3)))


def outcomes(store: Store, folder: Path, *runs: str, seeds: int = 1) -> dict[str, Any]:
    """What comes of runs, each of some models, one after the other on two nodes with a GPU, in a process of its own."""
    (folder / "fragile.py").write_text(FRAGILE)
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return answer(RUN, store.uri(), str(folder), str(seeds), *runs, environment=environment)


def test_a_process_that_has_lost_its_gpu_ends_and_others_go_on(found: dict[str, Any]) -> None:
    """One model loses it once, another each time it is tried: that is a row that names the GPU."""
    run = found["runs"][0]
    assert (run["said"], run["unusable"]) == ("", [])
    ((model, message),) = run["failures"]
    assert model == "always"
    assert message.startswith("CUDA error: an illegal memory access was encountered [node ")
    assert message.endswith(", GPU 0]")
    tries = [process for how, _, process in found["calls"] if how == "always"]
    assert len(tries) == len(set(tries)) == 2
    first, *others = [process for how, _, process in found["calls"] if how == "once"]
    assert first not in {*others, *tries}


def test_a_node_without_credentials_fails_no_unit_and_is_left_out(found: dict[str, Any]) -> None:
    run = found["runs"][1]
    assert (run["failures"], run["said"]) == ([], "")
    (said,) = run["unusable"]
    assert said.startswith(f"node {found['bad']} fails what others do: no credentials found [node ")
    tries = [node for how, node, _ in found["calls"] if how.startswith("denied")]
    assert PROVEN <= tries.count(found["bad"]) <= SUSPICIOUS + 1


# How soon Ray starts the second process decides how long this takes. In `make test` a node without credentials is left
# out, and test_capacity.py and test_health.py have the rules.
@pytest.mark.long
def test_a_node_whose_gpu_fails_is_left_out(store: Store, tmp_path: Path) -> None:
    found = outcomes(store, tmp_path, "node", seeds=10)
    (run,) = found["runs"]
    assert (run["failures"], run["said"]) == ([], "")
    (said,) = run["unusable"]
    assert said.startswith(f"node {found['bad']}, GPU 0: No CUDA GPUs are available")
    assert 2 <= [node for _, node, _ in found["calls"]].count(found["bad"]) <= 4


@pytest.mark.usefixtures("cluster")
def test_when_the_gpus_of_all_nodes_fail_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on a node is in tests/detectors/test_device.py."""

    @ray.remote
    def fault() -> str:
        return "node a, GPU 0: no driver"

    @ray.remote
    def well() -> str:
        return ""

    monkeypatch.setattr(preflight, "check_node", fault)
    cluster = Cluster(Resources(), alive)
    with pytest.raises(GpuUnusable, match="no node has a GPU that works: node a, GPU 0: no driver"):
        preflight.leave_out_unusable(cluster)
    monkeypatch.setattr(preflight, "check_node", well)
    preflight.leave_out_unusable(Cluster(Resources(), alive))


@pytest.mark.long  # torch is imported on each node; the test above has the driver's part, test_device.py the node's
def test_torch_that_cannot_use_the_gpus_is_said_before_anything_is_trained(store: Store, tmp_path: Path) -> None:
    before = list(store.list("units/"))
    said = outcomes(store, tmp_path, "padim")["runs"][0]["said"]
    assert said.startswith("GpuUnusable: no node has a GPU that works: node ")
    assert said.count(", GPU 0: ") == 2
    assert "resources.gpus: 0" in said
    assert list(store.list("units/")) == before
