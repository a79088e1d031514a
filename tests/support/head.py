"""A Ray head of its own with token auth on, beside whatever else runs on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybench.store.server import HOST, free_ports
from tests.support.plugins import PLUGIN

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
UP_WITHIN_S = 120.0
UPLOAD_LIMIT = 3_000_000  # bytes, as docs/cluster.md promises
# Two clusters on one machine clash where a port is fixed.
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)


@dataclass(frozen=True)
class Head:
    """environment: reaches the head as its owner would. metrics: where Prometheus scrapes it."""

    address: str
    metrics: str
    environment: dict[str, str]

    def ray(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A `ray` command, from the repository's root."""
        return subprocess.run(
            [str(BIN / "ray"), *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def job(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.ray("job", verb, "--address", self.address, *arguments)

    def answer(self, path: str, method: str = "GET") -> Any:
        """The dashboard's answer to a request with the token. Raises HTTPError."""
        token = Path(self.environment["HOME"], ".ray", "auth_token").read_text().strip()
        bearer = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(self.address + path, headers=bearer, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)


@contextlib.contextmanager
def ray_head() -> Iterator[Head]:
    """Run `ray start --head` with one CPU until the block ends; its workers have this environment and `fake`."""
    # Short, as Ray puts sockets below it; Ray's agents outlive the head by a moment and still write there.
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as home:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {
            "PYTHONPATH": PLUGIN,  # as if installed on the nodes; raybench itself comes with the job
            "HOME": home,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": home,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
        }
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        head = Head(
            f"http://{HOST}:{ports['dashboard-port']}", f"http://{HOST}:{ports['metrics-export-port']}", environment
        )
        head.ray("get-auth-token", "--generate")
        command = [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=1", "--object-store-memory=268435456"]
        command += [f"--node-ip-address={HOST}", f"--dashboard-host={HOST}", "--disable-usage-stats"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        log = Path(home, "head.log")
        with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as ran:
            try:
                wait_until(lambda: _up(head), UP_WITHIN_S, lambda: log.read_text())
                yield head
            finally:
                ran.send_signal(signal.SIGTERM)
                ran.wait(60)


def wait_until(ready: Callable[[], bool], within_s: float, else_say: Callable[[], str]) -> None:
    end = time.monotonic() + within_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(else_say()[-4000:])
        time.sleep(0.5)


def submission_id(output: str) -> str:
    found = re.search(r"Job '(\w+)' submitted", output)
    assert found, output
    return found[1]


def _up(head: Head) -> bool:
    try:
        head.answer("/api/jobs/")
    except OSError:
        return False
    return True
