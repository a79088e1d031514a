"""Join a Ray cluster or start one on this machine, and count the tasks that fit it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants

from raybench.config.experiment import Resources
from raybench.errors import ClusterUnreachable, InputError
from raybench.scheduler.capacity import Capacity, Node, capacity_of
from raybench.scheduler.handshake import check_answers

LOCAL_OBJECT_STORE_MB = 256  # images and scores travel through the store and the decode cache, not through Ray


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to Ray while the block runs.

    Args:
        address: as in `ray.init`. By default RAY_ADDRESS, and without it a cluster of this machine alone, on loopback,
            which only holders of the user's Ray token can join. A connection that the process already has, as a
            notebook may, is used and left open.

    Raises:
        ClusterUnreachable: no cluster answers within seconds, or it cannot be joined from this machine.
        InputError: no cluster can have such an address, or one is given although the process has a connection.
    """
    if ray.is_initialized():
        if address:
            raise InputError(
                f"this process has a Ray connection already, so {address!r} is not joined; call ray.shutdown() first, "
                "or give no address to use the connection that stands"
            )
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    check_answers(address)
    settings: dict[str, Any] = {}
    clusters_enabled = ray_constants.ENABLE_RAY_CLUSTER
    if address == "local":
        # Ray's address rewriting waits for a network that an air-gapped machine does not have.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # By default an idle worker ends after a second: its loaded models are lost, and its end disturbs measurements.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "3600000")
        # By default workers yield to every other program, and would measure their own politeness.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # That variable counts when Ray is imported, which has happened: without this Ray would listen to the network.
        ray_constants.ENABLE_RAY_CLUSTER = False
        settings = {
            "_node_ip_address": "127.0.0.1",
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE_MB * 2**20,
        }
    try:
        _join(address, settings)
        yield
    finally:
        ray.shutdown()
        ray_constants.ENABLE_RAY_CLUSTER = clusters_enabled


def _join(address: str, settings: dict[str, Any]) -> None:
    """Join the cluster at `address`, or start one of this machine alone. Raises ClusterUnreachable."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except Exception as error:
        # Another version of Ray or Python, no token, no node of the cluster on this machine, no memory left for one;
        # a bare Exception where the machine is so busy that its node does not start in time.
        what = "start Ray on this machine" if address == "local" else f"join the Ray cluster at {address}"
        raise ClusterUnreachable(f"cannot {what}: {error}") from error


def alive() -> tuple[Node, ...]:
    """List the living nodes of the connected cluster."""
    return tuple(
        _node(entry)
        for entry in ray.nodes()  # type: ignore[no-untyped-call]
        if entry["Alive"]
    )


def cluster_capacity(resources: Resources) -> Capacity:
    """Count the tasks that fit the connected cluster. Raises InputError when not even one does."""
    return capacity_of(resources, alive())


def _node(entry: dict[str, Any]) -> Node:
    resources = entry["Resources"]
    return Node(entry["NodeID"], int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
