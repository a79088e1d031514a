from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from raybench.errors import StoreError, StoreUnreachable
from raybench.store import open_store
from raybench.store.server import EmbeddedServer, embedded_server


def test_listens_on_loopback_only(server: EmbeddedServer) -> None:
    open_ports = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
    inodes = {str(path.readlink()) for path in Path(f"/proc/{server.pid}/fd").iterdir() if path.is_symlink()}
    listening = [row[1] for row in open_ports[1:] if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    assert listening
    assert all(address.startswith("0100007F:") for address in listening)


def test_keys_are_not_on_the_command_line(server: EmbeddedServer) -> None:
    command = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
    assert server.secret_key not in command
    assert server.access_key not in command
    assert server.secret_key not in repr(server)


def test_data_outlives_the_server_and_its_keys(tmp_path: Path) -> None:
    with embedded_server(tmp_path) as first:
        kept = open_store("s3://kept")
        kept.create()
        kept.put("k", b"1")
    with embedded_server(tmp_path) as second:
        assert second.secret_key != first.secret_key
        assert open_store("s3://kept").get("k") == b"1"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(second.endpoint_url.rsplit(":", 1)[1])), timeout=2)


@pytest.mark.usefixtures("short_pauses")
def test_the_environment_names_it_until_it_ends_and_a_proxy_for_all_else_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with embedded_server(tmp_path) as server:
        assert os.environ["AWS_ENDPOINT_URL"] == server.endpoint_url
        assert "AWS_PROFILE" not in os.environ
        near = open_store("s3://near")
        near.create()
        near.put("k", b"1")
        assert near.get("k") == b"1"
        far = open_store("s3://far", endpoint_url=server.endpoint_url.replace("127.0.0.1", "192.0.2.1"))
        with pytest.raises(StoreUnreachable, match="Proxy"):
            far.get("k")
    assert os.environ["AWS_PROFILE"] == "mine"
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_credentials_file_is_private(server: EmbeddedServer) -> None:
    path = server.write_credentials()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server.secret_key in path.read_text()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"raybench\[server\]"), embedded_server(tmp_path):
        pass
