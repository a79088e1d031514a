"""The store through a proxy that breaks connections, and over a server that dies: real SeaweedFS, no Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import proxy as proxies
from benchmarks.faults.compare import wrong_commits
from benchmarks.faults.proxy import Fault, FaultProxy, fault_proxy
from raybench.errors import ObjectMissing, StoreUnreachable
from raybench.store import Store, open_store
from raybench.store.server import EmbeddedServer, embedded_server

pytestmark = pytest.mark.usefixtures("short_pauses")
FAULTS: tuple[Fault, ...] = ("busy", "reset", "answer lost", "stall", "truncated")
MORE_THAN_A_CLIENT_RETRIES = 6


@pytest.fixture(autouse=True)
def _short_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "STALL_S", 0.2)


@pytest.fixture
def proxy(server: EmbeddedServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint_url) as running:
        yield running


@pytest.fixture
def store(bucket: Store, proxy: FaultProxy) -> Store:
    """The test's bucket through the proxy; waits through trouble."""
    return open_store(bucket.uri(), endpoint_url=proxy.url).with_retry_timeout(60.0)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_method_outlasts(fault: Fault, store: Store, proxy: FaultProxy) -> None:
    data = os.urandom(100_000)
    proxy.inject(fault, 1)
    store.put("a/one", data)
    proxy.inject(fault, 1)
    assert store.get("a/one") == data
    proxy.inject(fault, 1)
    assert store.get_range("a/one", 10, 1000) == data[10:1010]
    proxy.inject(fault, 1)
    assert [(item.key, item.size) for item in store.list("a/")] == [("a/one", len(data))]
    proxy.inject(fault, 1)
    assert store.exists("a/one")
    proxy.inject(fault, 1)
    store.delete("a/one")
    assert proxy.met == 6
    assert not store.exists("a/one")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_missing_though_the_answer_broke_off(fault: Fault, store: Store, proxy: FaultProxy) -> None:
    proxy.inject(fault, 1)
    with pytest.raises(ObjectMissing):
        store.get("none")
    assert proxy.met == 1


def test_a_longer_storm_than_the_client_retries(store: Store, proxy: FaultProxy) -> None:
    store.put("a", b"1")
    proxy.inject("busy", MORE_THAN_A_CLIENT_RETRIES)
    assert store.get("a") == b"1"
    assert proxy.pending == 0
    proxy.inject("busy", MORE_THAN_A_CLIENT_RETRIES)
    with pytest.raises(StoreUnreachable):
        store.with_retry_timeout(0.0).get("a")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_is_made_once_and_stands(fault: Fault, store: Store, proxy: FaultProxy, bucket: Store) -> None:
    """Where the answer is lost, the second try finds the key taken: by the very bytes it wanted to put there."""
    proxy.inject(fault, 1)
    store.put_if_absent("units/u/finished.json", b"first")
    assert not store.put_if_absent("units/u/finished.json", b"second")
    assert bucket.get("units/u/finished.json") == b"first"
    name = bucket.uri().removeprefix("s3://")
    assert wrong_commits(proxy.commits, bucket, name) == []
    assert len(proxy.commits) == 1


def test_what_the_proxy_counts_is_not_vacuous(store: Store, proxy: FaultProxy, bucket: Store) -> None:
    key, name = "units/u/finished.json", bucket.uri().removeprefix("s3://")
    store.put_if_absent(key, b"first")
    bucket.put(key, b"other")
    assert wrong_commits(proxy.commits, bucket, name) == [f"{key} is not what was committed"]
    bucket.delete(key)
    store.put_if_absent(key, b"again")
    assert wrong_commits(proxy.commits, bucket, name) == [f"{key} was committed 2 times"]


def test_the_self_test_bears_a_lost_answer(store: Store, proxy: FaultProxy) -> None:
    proxy.inject("answer lost", 1)
    store.check()


def test_a_listing_is_whole_though_a_page_failed(store: Store, proxy: FaultProxy) -> None:
    for number in range(5):
        store.put(f"a/{number}", b"x")
    # A page has 1000 items, which nothing public changes; it takes two pages.
    client = store._backend.client  # type: ignore[attr-defined]
    whole = client.list_objects_v2
    client.list_objects_v2 = lambda **wanted: whole(**wanted, MaxKeys=2)
    listing = store.list("a/")
    found = [next(listing).key]
    proxy.inject("busy", MORE_THAN_A_CLIENT_RETRIES)
    assert [*found, *(item.key for item in listing)] == [f"a/{number}" for number in range(5)]


def test_a_server_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    with embedded_server(tmp_path) as first, fault_proxy(first.endpoint_url) as proxy:
        store = open_store("s3://kept", endpoint_url=proxy.url).with_retry_timeout(60.0)
        store.create()
        store.put("before", b"1")
        os.kill(first.pid, signal.SIGKILL)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(store.get("before")))
        reader.start()
        time.sleep(1.0)
        keys = (first.access_key, first.secret_key)
        with embedded_server(tmp_path, export=False, keys=keys) as second:
            proxy.upstream = second.endpoint_url
            reader.join(60.0)
            assert found == [b"1"]
            assert not store.put_if_absent("before", b"2")
