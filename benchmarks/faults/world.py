"""A small world to break: a Ray cluster of several raylets, an S3 server behind a fault proxy, drivers as processes.

The head has no CPU, each worker node one. Nothing of it runs in this process but the proxy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from benchmarks.faults.proxy import FaultProxy, fault_proxy
from raybench.config.experiment import Experiment
from raybench.store.server import EmbeddedServer, embedded_server

CACHE_MB = 64
DRIVER = "from raybench.cli import main; main()"
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.1",
    "dashboard_agent_listen_port": 0,
    "include_log_monitor": False,  # nobody reads the logs of these workers, and nothing is scaled
    "no_monitor": True,
}
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "3600000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default workers yield to all else, and a busy machine would see no phase end
}


class World:
    """drivers: started and not yet waited for. no_tmpfs: why a full disk cannot be made here; empty where it can."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, nodes: int) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.no_tmpfs = _mounted(self.cache, stack)
        self._server_stack = stack.enter_context(contextlib.ExitStack())
        self.server: EmbeddedServer = self._server_stack.enter_context(embedded_server(folder / "server"))
        self.proxy: FaultProxy = stack.enter_context(fault_proxy(self.server.endpoint_url))
        ray_folder = Path(tempfile.mkdtemp(prefix="rb-"))  # paths of sockets must be short
        stack.callback(shutil.rmtree, ray_folder, ignore_errors=True)
        settings = SETTINGS | {"RAYBENCH_CACHE": str(self.cache), "RAY_TMPDIR": str(ray_folder)}
        stack.enter_context(environment(settings))
        head = NODE | {"num_cpus": 0, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        stack.callback(self.cluster.shutdown)
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(nodes)]
        self.drivers: list[subprocess.Popen[str]] = []
        stack.callback(self.end_drivers)

    def start(self, experiment: Experiment) -> subprocess.Popen[str]:
        """`raybench run`, in a process of its own; its output goes into a file beside the experiment's."""
        path = self.folder / f"{experiment.name}.yaml"
        path.write_text(experiment.to_yaml())
        out = str(self.folder / "out" / f"{len(self.drivers)}")
        command = [sys.executable, "-c", DRIVER, "run", str(path), "--out", out, "--address", self.cluster.address]
        with path.with_suffix(".log").open("a") as log:
            driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        self.drivers.append(driver)
        return driver

    def log(self, experiment: Experiment) -> str:
        """What the drivers of this experiment have printed."""
        return (self.folder / f"{experiment.name}.log").read_text()

    def processes(self, title: str) -> list[psutil.Process]:
        """Ray workers of this world whose title starts so: `train`, `score`, `measure`, `Aggregator`, or any."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{title}"):
                    found.append(process)
        return found

    def kill_worker(self, title: str) -> bool:
        """kill -9 one such worker; False when there is none just now."""
        for process in self.processes(title):
            with contextlib.suppress(psutil.Error):
                process.kill()
                return True
        return False

    def replace_node(self) -> bool:
        """Kill a node with all that runs on it; a new one takes its place."""
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))
        return True

    def restart_server(self, down_s: float) -> bool:
        """kill -9 the S3 server; after a while it comes back over the same data, at another port."""
        os.kill(self.server.pid, signal.SIGKILL)
        self._server_stack.close()
        time.sleep(down_s)
        keys = (self.server.access_key, self.server.secret_key)
        self.server = self._server_stack.enter_context(embedded_server(self.server.folder, keys=keys))
        self.proxy.upstream = self.server.endpoint_url
        return True

    def fill_disk(self, seconds: float) -> bool:
        """No byte is left in the nodes' decode cache for so long."""
        if self.no_tmpfs:
            return False
        filler = self.cache / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
        time.sleep(seconds)
        filler.unlink()
        return True

    def end_drivers(self) -> None:
        """Kill those that still run."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
            driver.wait()


@contextlib.contextmanager
def world(nodes: int = 2) -> Iterator[World]:
    """A world that runs until the block ends."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raybench-faults-")))
        yield World(folder, stack, nodes)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _mounted(folder: Path, stack: contextlib.ExitStack) -> str:
    """Make `folder` a small file system of its own. Returns why that is not possible here, or nothing."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={CACHE_MB}m,mode=0700", "raybench-cache", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no mount command"
    if done.returncode:
        return done.stderr.strip() or f"mount ended with {done.returncode}"
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return ""


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
