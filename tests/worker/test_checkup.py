"""What is found out about a machine, and what is advised."""

from __future__ import annotations

import socket
import time
from collections import namedtuple
from pathlib import Path

import pytest

from raybench.store import Store, open_store
from raybench.store.server import HOST, free_ports
from raybench.worker import checkup
from raybench.worker.checkup import Check

Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "total available")


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"))
    store.create()
    return store


def states(checks: list[Check]) -> dict[str, str]:
    return {check.what: check.state for check in checks}


def test_a_machine_that_is_well(folder: Store) -> None:
    found = checkup.check_machine(folder)
    assert set(states(found)) >= {"versions", "GPU", "disk", "memory", "priority", "store", "clock"}
    assert states(found)["store"] == states(found)["clock"] == "ok"
    assert not [check for check in found if check.state == "ok" and check.remedy]
    assert not list(folder.list()), "nothing is left behind"


def test_on_s3(bucket: Store) -> None:
    store, clock = checkup.check_store(bucket)
    assert (store.state, clock.state) == ("ok", "ok")
    assert "honours conditional writes" in store.found
    assert abs(bucket.clock() - time.time()) < 2


@pytest.mark.parametrize(
    ("seconds", "state", "said"),
    [
        (0.2, "ok", "as the store's"),
        (90.0, "warn", "90 s behind the store"),
        (-900.0, "fail", "900 s ahead of the store"),
    ],
)
def test_a_clock_that_is_off(
    seconds: float, state: str, said: str, folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "clock", lambda self: time.time() + seconds)
    found = checkup.check_clock(folder)
    assert (found.state, found.found) == (state, said)
    assert bool(found.remedy) == (state != "ok")


@pytest.mark.usefixtures("short_pauses")
def test_stores_that_fail(server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    (missing,) = checkup.check_store(open_store("s3://no-such-bucket"))
    assert (missing.state, missing.remedy) == ("fail", "correct the URI, or create the bucket")
    (silent,) = checkup.check_store(open_store("s3://b", endpoint_url="http://127.0.0.1:9"))
    assert "no answer from http://127.0.0.1:9" in silent.found
    assert "endpoint_url" in silent.remedy
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    (denied,) = checkup.check_store(open_store("s3://b"))
    assert "Ray's processes" in denied.remedy


@pytest.mark.parametrize(("free_gb", "state"), [(100, "ok"), (5, "warn"), (1, "fail")])
def test_little_disk(free_gb: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, free_gb * 1e9))
    disk = next(checkup.check_disk())
    assert disk.state == state
    assert ("RAYBENCH_CACHE" in disk.remedy) == (state != "ok")


def test_little_shared_memory_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, 64e6 if path.name == "shm" else 1e12))
    disk, shm = checkup.check_disk()
    assert (disk.state, shm.state) == ("ok", "warn")
    assert "64 MB" in shm.found
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(8e9, 1e9))
    assert checkup.check_memory().state == "warn"


def test_a_folder_of_somebody_else_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYBENCH_CACHE", str(tmp_path / "file"))
    assert next(checkup.check_disk()).state == "fail"


def test_processes_that_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.nice", lambda step: 15)
    assert "RAY_worker_niceness=0" in checkup.check_niceness().remedy


def test_ports_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as server:
        taken, (free,) = server.getsockname()[1], free_ports(1)
        monkeypatch.setattr(checkup, "HEAD_PORTS", (taken, free))
        found = checkup.check_ports()
    assert found.state == "warn"
    assert f"listens at {taken}, where" in found.found
    monkeypatch.setattr(checkup, "HEAD_PORTS", (free,))
    assert checkup.check_ports().state == "ok"


def test_a_gpu_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from raybench.detectors import device

    monkeypatch.setattr(device, "available", lambda: "cuda")
    monkeypatch.setattr(device, "faults", lambda: {"1": "an illegal memory access (driver 580)"})
    found = checkup.check_gpus()
    assert (found.state, found.found) == ("fail", "GPU 1: an illegal memory access (driver 580)")
