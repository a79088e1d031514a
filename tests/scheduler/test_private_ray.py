"""Private names of Ray that raybench uses. A test that fails names the one that a new version of Ray has changed."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import ray_constants, services
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.grpc_utils import init_grpc_channel
from ray._private.worker import global_worker
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

from raybench.scheduler.gpus import GPU, IDLE
from raybench.scheduler.stop import JOB_STOP_WAIT_S

RAYLET = Path(ray.__file__).parent / "core/src/ray/raylet/raylet"


def test_ray_constants_enable_ray_cluster_is_read_when_ray_starts() -> None:
    """`cluster.connected` clears it, so that a cluster of this machine alone listens on loopback."""
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services)


def test_ray_init_takes_node_ip_address() -> None:
    assert '"_node_ip_address"' in inspect.getsource(ray.init)


def test_get_accelerator_manager_for_resource_knows_the_variable_of_gpus() -> None:
    manager = get_accelerator_manager_for_resource(GPU)
    assert manager is not None
    assert manager.get_visible_accelerator_ids_env_var() in {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}


def test_global_worker_remembers_the_gpus_of_its_node() -> None:
    """`gpus.choose` shows them all to CUDA. None: the node hides none."""
    seen = global_worker.original_visible_accelerator_ids.get(GPU)
    assert seen is None or isinstance(seen, list)


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_the_title_of_a_process_tells_that_it_is_idle() -> None:
    """`gpus` ends idle processes that hold memory of a GPU."""

    @ray.remote
    def task() -> tuple[int, str]:
        here = psutil.Process()
        return here.pid, "".join(here.cmdline())

    process, busy = ray.get(task.remote())
    assert not busy.startswith(IDLE)
    until = time.monotonic() + 10
    while not (title := "".join(psutil.Process(process).cmdline())).startswith(IDLE):
        assert time.monotonic() < until, title


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_cluster_tells_its_id_over_grpc() -> None:
    """`handshake.check_answers` asks for it, to know within seconds whether a cluster is there."""
    channel = init_grpc_channel(ray.get_runtime_context().gcs_address)
    stub = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
    answer = stub.GetClusterId(GetClusterIdRequest(), timeout=10)
    channel.close()
    assert answer.cluster_id


@pytest.mark.parametrize("name", ["idle_worker_killing_time_threshold_ms", "worker_niceness"])
def test_the_raylet_reads_the_setting(name: str) -> None:
    """`cluster.connected` sets it by the variable RAY_<name>; the raylet ignores unknown ones."""
    assert name.encode() in RAYLET.read_bytes()


def test_remote_functions_keep_max_calls() -> None:
    """test_gpus.py reads it to see that workers are used again."""

    @ray.remote(max_calls=3)
    def task() -> None: ...

    assert vars(task)["_max_calls"] == 3


def test_a_job_is_killed_as_long_after_its_stop_as_is_assumed() -> None:
    from ray.dashboard.modules.job.job_supervisor import JobSupervisor

    assert JobSupervisor.DEFAULT_RAY_JOB_STOP_WAIT_TIME_S == JOB_STOP_WAIT_S
