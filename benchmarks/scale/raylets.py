"""Ray's multi-node test cluster: several raylets on this machine, GPUs as numbers."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster

from benchmarks.faults.world import NODE, SETTINGS, environment

OBJECT_STORE_MB = 100


@contextlib.contextmanager
def raylets(nodes: int, cpus: int, gpus: int, folder: Path, cpu_nodes: int = 0) -> Iterator[Any]:
    """A head without CPUs and so many equal nodes, joined by this process. cpu_nodes: those without a GPU. folder:
    of the decode caches, one that the nodes share and one that the cpu_nodes share. Yields Ray's cluster."""
    cache, theirs = folder / "cache", folder / "cache-of-helpers"
    for path in (cache, theirs):
        path.mkdir(mode=0o700, exist_ok=True)
    sockets = Path(tempfile.mkdtemp(prefix="rb-"))  # paths of sockets must be short
    one_thread = {"OMP_NUM_THREADS": "1"}
    node: dict[str, Any] = NODE | {"object_store_memory": OBJECT_STORE_MB * 2**20}
    variables = SETTINGS | one_thread | {"RAYBENCH_CACHE": str(cache), "RAY_TMPDIR": str(sockets)}
    with environment(variables), contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        stack.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", ray_constants.ENABLE_RAY_CLUSTER)
        ray_constants.ENABLE_RAY_CLUSTER = False  # read from its variable when Ray was imported: stay on loopback
        cluster: Any = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        for _ in range(nodes):
            cluster.add_node(**node | {"num_cpus": cpus, "num_gpus": gpus})
        for _ in range(cpu_nodes):
            cluster.add_node(**node | {"num_cpus": cpus, "env_vars": {"RAYBENCH_CACHE": str(theirs)}})
        stack.callback(ray.shutdown)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster


def object_store_mb() -> float:
    """What lies in the object stores of all nodes, 10^6 bytes."""
    reply = get_memory_info_reply(get_state_from_address(None))  # type: ignore[no-untyped-call]
    return float(reply.store_stats.object_store_bytes_used) / 1e6
