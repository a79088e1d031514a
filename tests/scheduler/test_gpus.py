"""A worker that does task after task works on the GPU that each was given. GPUs are Ray's word for a number here."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from raybench.scheduler import gpus
from raybench.scheduler.gpus import NotBegun, position
from raybench.scheduler.tasks import REUSE_WORKER, execute

TASKS, GPUS = 12, "4,7"
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
RUN = """
import json, os, time
import ray
from raybench.scheduler import gpus

@ray.remote(num_cpus=0, max_calls=0)
def task():
    number = gpus.choose()
    time.sleep(0.05)
    given = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return os.getpid(), given, number, os.environ["CUDA_VISIBLE_DEVICES"]

ray.init(
    address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False,
    _node_ip_address="127.0.0.1", object_store_memory=2**28,
)
of_one = [ray.get(task.options(num_gpus=1.0).remote()) for _ in range(2)]
of_many = ray.get([task.options(num_gpus=1.0).remote() for _ in range(12)])
without = ray.get(ray.remote(num_cpus=0)(gpus.choose).remote())
print(json.dumps([of_one + of_many, without]))
ray.shutdown()
"""


def test_where_a_gpu_stands_among_its_nodes() -> None:
    assert position("3", None) == 3
    assert position("7", ["4", "6", "7"]) == 2
    assert position("GPU-b", ["GPU-a", "GPU-b"]) == 1


def test_a_process_keeps_its_instance_of_mig(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows one to a process."""
    monkeypatch.setattr(gpus, "_process", gpus._Process())  # this one, of pytest, is to keep none
    gpus.keep("MIG-a")
    gpus.keep("MIG-a")
    with pytest.raises(NotBegun, match="keeps MIG-a and was given MIG-b"):
        gpus.keep("MIG-b")


def test_workers_are_used_again() -> None:
    """Ray's `max_calls=1` for GPU tasks would end each with its imports; `gpus` is what stands in its place."""
    assert vars(execute)["_max_calls"] == REUSE_WORKER == 0


@pytest.mark.cluster
def test_each_task_chooses_its_own_gpu_among_all_of_the_node() -> None:
    """In a process of its own: the session's cluster has no GPU. The node may use two of eight."""
    settings = LOOPBACK | {"CUDA_VISIBLE_DEVICES": GPUS}
    ran = subprocess.run(
        [sys.executable, "-c", RUN], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found, without = json.loads(ran.stdout.splitlines()[-1])
    assert without is None
    assert len(found) == 2 + TASKS
    assert len({pid for pid, *_ in found}) < len(found)
    for _, (given,), number, seen in found:
        assert seen == GPUS
        assert GPUS.split(",")[number] == given
