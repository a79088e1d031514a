"""What a machine can do for a run: each finding with its remedy. Does not use Ray, so that it runs on every node."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from raybench.errors import RaybenchError, StoreDenied, StoreUnreachable
from raybench.runs.run import versions
from raybench.store import Store
from raybench.worker.context import node_cache

State = Literal["ok", "warn", "fail"]
DISK_GB, LITTLE_DISK_GB = 20.0, 2.0  # decoded images take up to 8 GiB, weights come beside them
MEMORY_GB = 4.0  # a worker with torch, a detector and a batch
SHM_GB = 0.25  # of Ray's object store on a cluster of this machine alone
SKEW_S, MOST_SKEW_S = 30.0, 600.0  # S3 refuses requests that are 15 minutes off
HEAD_PORTS = (6379, 8265, 10001)
_NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Check:
    """One finding."""

    what: str
    """What was looked at: "clock", "disk"."""
    state: State
    found: str
    """What was found, in words."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


def check_machine(store: Store | None) -> list[Check]:
    """Look at this machine, and at the store from here."""
    checks = [check_versions(), check_gpus(), *check_disk(), check_memory(), check_niceness()]
    return [*checks, *check_store(store)] if store else checks


def check_versions() -> Check:
    """Name the versions that have to be the same on all nodes, and torch's."""
    installed = versions()
    names = ", ".join(f"{name} {installed[name]}" for name in ("raybench", "ray", "torch"))
    return Check("versions", "ok", f"{names}, Python {platform.python_version()}")


def check_store(store: Store) -> Iterator[Check]:
    """Write, read and delete an object, try a conditional write, and compare the clocks."""
    started = time.perf_counter()
    try:
        store.check()
    except RaybenchError as error:
        yield Check("store", "fail", f"{store.uri()}: {error}", _store_remedy(error))
        return
    ms = (time.perf_counter() - started) * 1000 / 4
    yield Check("store", "ok", f"{store.uri()} honours conditional writes; {ms:.0f} ms a request")
    yield check_clock(store)


def _store_remedy(error: RaybenchError) -> str:
    if "TimeTooSkewed" in str(error):
        return "set this machine's clock: chronyc makestep, or timedatectl set-ntp true"
    if isinstance(error, StoreDenied):
        return "give Ray's processes the keys, and those the rights that docs/cluster.md lists"
    if isinstance(error, StoreUnreachable):
        return "check AWS_ENDPOINT_URL or storage.endpoint_url, the firewall, and whether the server is up"
    return "correct the URI, or create the bucket"


def check_clock(store: Store) -> Check:
    """Compare this machine's clock with the store's."""
    before = time.time()
    there = store.clock()
    skew_s = there - (before + time.time()) / 2
    found = (
        f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the store"
        if abs(skew_s) >= 1
        else "as the store's"
    )
    if abs(skew_s) < SKEW_S:
        return Check("clock", "ok", found)
    remedy = "set the clock: chronyc makestep, or timedatectl set-ntp true; S3 refuses 15 minutes"
    return Check("clock", "warn" if abs(skew_s) < MOST_SKEW_S else "fail", found, remedy)


def check_gpus() -> Check:
    """Compute something on each GPU that this process sees."""
    from raybench.detectors import device  # torch takes seconds to import

    if device.available() == "cpu" and not _NVIDIA.exists():
        return Check("GPU", "ok", "none; detectors run on the CPU")
    faults = device.faults()
    if faults:
        found = "; ".join(f"GPU {number}: {fault}" for number, fault in faults.items())
        return Check("GPU", "fail", found, "mend the driver, or run on CPUs with resources.gpus: 0")
    return Check("GPU", "ok", f"{device.count()} × {device.describe('cuda')} compute what they must")


def check_disk() -> Iterator[Check]:
    """Look at the space for decoded images, and at that of Ray's object store."""
    try:
        cache = node_cache()
        free_gb = shutil.disk_usage(cache).free / 1e9
    except (OSError, RaybenchError) as error:
        yield Check("disk", "fail", str(error), "set RAYBENCH_CACHE to a folder of this user's")
        return
    state: State = "ok" if free_gb >= DISK_GB else "warn" if free_gb >= LITTLE_DISK_GB else "fail"
    remedy = "" if state == "ok" else f"set RAYBENCH_CACHE to a folder with {DISK_GB:.0f} GB"
    yield Check("disk", state, f"{free_gb:.1f} GB free for decoded images in {cache}", remedy)
    shm = Path("/dev/shm")  # noqa: S108
    if shm.exists() and (free_gb := shutil.disk_usage(shm).free / 1e9) < SHM_GB:
        remedy = "give the container --shm-size=2g; Ray falls back to the slower /tmp"
        yield Check("shm", "warn", f"{free_gb * 1000:.0f} MB free in /dev/shm", remedy)


def check_memory() -> Check:
    """Look at the memory that is free."""
    memory = psutil.virtual_memory()
    free_gb, total_gb = memory.available / 1e9, memory.total / 1e9
    found = f"{free_gb:.1f} of {total_gb:.1f} GB free, {os.cpu_count()} CPU cores"
    if free_gb >= MEMORY_GB:
        return Check("memory", "ok", found)
    return Check(
        "memory", "warn", found, "stop other programs, or raise resources.cpus so that fewer tasks run at once"
    )


def check_ports() -> Check:
    """Look whether something listens where a head of Ray would."""
    taken = [port for port in HEAD_PORTS if _listens(port)]
    if not taken:
        return Check("ports", "ok", f"{', '.join(map(str, HEAD_PORTS))} are free for a head of Ray")
    named = ", ".join(map(str, taken))
    remedy = "if that is a cluster, name it: --address auto; if not, give `ray start --head` other ports"
    return Check("ports", "warn", f"something listens at {named}, where a head of Ray would", remedy)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


def check_niceness() -> Check:
    """Look whether processes of this node yield to all others, as Ray's do by default."""
    niceness = os.nice(0)
    if niceness <= 0:
        return Check("priority", "ok", "that of other programs")
    remedy = "set RAY_worker_niceness=0 before `ray start` on each node"
    return Check("priority", "warn", f"niceness {niceness}: speed is measured too slow beside other programs", remedy)
