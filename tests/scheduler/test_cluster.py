"""A cluster of this machine alone is out of reach for others: on loopback, and only with the token."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import ray

from raybench.errors import InputError
from raybench.scheduler.cluster import connected

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

JOIN = """
import ray
from raybench.errors import ClusterUnreachable
from raybench.scheduler.handshake import check_answers

try:
    check_answers({address!r})
except ClusterUnreachable as error:
    print(error)
ray.init(address={address!r}, log_to_driver=False)
print("joined")
"""


def is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_all_of_it_listens_on_loopback_only() -> None:
    here = psutil.Process()
    found = {
        (process.name(), socket.laddr.ip)
        for process in (here, *here.children(recursive=True))
        for socket in process.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN
    }
    assert {name for name, _ in found} >= {"gcs_server", "raylet", "weed"}
    assert [each for each in found if not is_loopback(each[1])] == []


def test_nobody_joins_without_the_token(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    code = JOIN.format(address=address)

    def join(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    kept["RAY_NUM_REDIS_GET_RETRIES"] = "1"  # a second apart; by default Ray asks twenty times
    strangers = [kept | {"HOME": str(tmp_path), "RAY_AUTH_MODE": mode} for mode in ("token", "disabled")]
    with ThreadPoolExecutor() as pool:
        owner, *others = pool.map(join, [os.environ, *strangers])
    assert "joined" in owner.stdout, owner.stderr
    for other in others:
        assert other.returncode != 0
        assert other.stdout.count("~/.ray/auth_token") == 1
        assert "joined" not in other.stdout


def test_a_connection_that_stands_is_used_and_left_open() -> None:
    address = ray.get_runtime_context().gcs_address
    with connected():
        assert ray.get_runtime_context().gcs_address == address
    assert ray.is_initialized()
    with (
        pytest.raises(InputError, match=r"has a Ray connection already.*ray\.shutdown"),
        connected("ray://head:10001"),
    ):
        pytest.fail("joined")
    assert ray.is_initialized()
