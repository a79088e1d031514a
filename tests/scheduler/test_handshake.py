"""A cluster that is not there is one message within seconds, wherever its address is given."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private import services

import raybench
from raybench.errors import ClusterUnreachable, InputError
from raybench.scheduler import handshake
from raybench.store.server import HOST, free_ports


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    return f"{HOST}:{free_ports(1)[0]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never answers."""
    with socket.create_server((HOST, 0)) as listening:
        yield f"{HOST}:{listening.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """The address of a web server."""
    with http.server.ThreadingHTTPServer((HOST, 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"{HOST}:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_a_closed_port(form: str, closed: str) -> None:
    started, address = time.monotonic(), form.format(closed)
    with pytest.raises(ClusterUnreachable) as found:
        handshake.check_answers(address)
    assert str(found.value).startswith(f"no Ray cluster answers at {address}: nothing listens there. ")
    assert "`ray start --head`" in str(found.value)
    assert time.monotonic() - started < 5


def test_a_port_that_accepts_and_never_answers(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "ANSWER_S", 0.5)
    with pytest.raises(ClusterUnreachable, match=rf"at {silent}: no answer within 0\.5 s\. A firewall, or a head that"):
        handshake.check_answers(silent)


def test_something_else_listens(web: str) -> None:
    with pytest.raises(ClusterUnreachable, match=rf"at {web}: a server listens there, but not Ray's"):
        handshake.check_answers(web)


def test_where_an_address_comes_from_is_said(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    for address in (closed, "auto"):  # Ray prefers the variable to a cluster that it finds
        with pytest.raises(ClusterUnreachable, match=rf"at {closed} \(from RAY_ADDRESS\): nothing listens"):
            handshake.check_answers(address)


def test_what_ray_makes_of_an_address_is_said(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: "127.0.0.9")
    port = closed.partition(":")[2]
    with pytest.raises(ClusterUnreachable, match=rf"at {closed} \(for Ray 127\.0\.0\.9:{port}\): nothing listens"):
        handshake.check_answers(closed)


def test_auto_finds_a_head_that_has_died_or_none(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray notes the address of the latest head in a file, which a head that was killed leaves behind."""
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: closed)
    with pytest.raises(ClusterUnreachable, match=rf"at {closed} \(the latest `ray start` of this machine"):
        handshake.check_answers("auto")
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    with pytest.raises(ClusterUnreachable, match="no Ray cluster runs on this machine"):
        handshake.check_answers("auto")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://head:8265", "ray job submit --address http://head:8265"),
        ("head", "'head' is no address of a Ray cluster"),
    ],
)
def test_what_is_no_address(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        handshake.check_answers(address)


def test_nothing_is_packed_before(closed: str, strips: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterUnreachable, match="nothing listens there"):
        raybench.run(strips, store=tmp_path / "store", address=closed, progress=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_there() -> None:
    import ray

    handshake.check_answers(ray.get_runtime_context().gcs_address)
