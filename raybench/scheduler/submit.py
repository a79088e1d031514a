"""Submit a run to a Ray cluster as a job, follow its log, and learn how it ended.

A job brings its experiment and the modules of own detectors along, and nothing else: raybench is installed on the
nodes, which hold the credentials.
"""

from __future__ import annotations

import asyncio
import getpass
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from raybench.config.experiment import Experiment
from raybench.detectors.plugins import modules_of
from raybench.errors import ClusterUnreachable, InputError
from raybench.scheduler.handshake import ANSWER_S, LET_IN

SILENT_S = 600.0
"""After so many seconds without a word of the job, its state is said."""
DASHBOARD_PORT = 8265
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # nothing is downloaded; what is missing is said at once
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",  # progress arrives as it happens
}
_GONE = (OSError, RuntimeError, aiohttp.ClientError)  # what Ray's client lets through of requests and aiohttp
_IGNORED = shutil.ignore_patterns("__pycache__", ".*")


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    client: JobSubmissionClient
    id: str
    """Its submission ID: the run's name and the time."""

    def follow(self, show: Callable[[str], None]) -> int | None:
        """Pass on the log of the job until it ends.

        Args:
            show: Takes pieces of the log, which need not end with a line's end.

        Returns:
            The exit code of `raybench run`; None if the job was stopped.

        Raises:
            ClusterUnreachable: The cluster has gone, and the job may go on; or the job could not be started.
        """
        try:
            asyncio.run(self._tail(show))
            found = self.client.get_job_info(self.id)
        except _GONE as error:
            raise ClusterUnreachable(f"the cluster does not answer any more: {error}; the job may go on") from error
        if found.status is JobStatus.STOPPED:
            return None
        if found.driver_exit_code is None:
            raise ClusterUnreachable(f"the cluster could not run the job: {found.message}")
        return int(found.driver_exit_code)

    async def _tail(self, show: Callable[[str], None]) -> None:
        pieces = self.client.tail_job_logs(self.id)
        while True:
            coming = asyncio.ensure_future(anext(pieces, None))
            while not (await asyncio.wait({coming}, timeout=SILENT_S))[0]:
                state = self.client.get_job_status(self.id)
                show(f"nothing new for {SILENT_S / 60:.0f} minutes; the job is {state.lower()}\n")
            piece = coming.result()
            if piece is None:
                break
            show(piece)
        while not self.client.get_job_status(self.id).is_terminal():  # the log ends a moment before the job does
            await asyncio.sleep(0.2)


def submit(experiment: Experiment, file: Path, address: str, resources: dict[str, float] | None = None) -> Job:
    """Submit a run as a job.

    Args:
        experiment: The experiment.
        file: Its file. Modules of own detectors are looked for beside it.
        address: Where jobs are submitted: `http://HOST:8265`.
        resources: What the node of the job's driver must have, such as `{"helper": 0.1}`.

    Raises:
        InputError: The address is not one for jobs, or a store is a path on this machine.
        ClusterUnreachable: No cluster answers there, or it refuses this machine's token or the job.
    """
    for key, uri in (("store", experiment.store), ("weights", experiment.weights or "/")):
        if "://" not in uri and not Path(uri).is_absolute():
            raise InputError(f"{key}: {uri!r} is a path on this machine; name a store that all nodes reach")
    client = connected_client(address)
    job_id = f"{experiment.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with tempfile.TemporaryDirectory(prefix="raybench-submit-") as folder:
        (Path(folder) / "experiment.yaml").write_bytes(file.read_bytes())
        for module in _own_modules(experiment, file.parent):
            target = Path(folder) / module.name
            shutil.copytree(module, target, ignore=_IGNORED) if module.is_dir() else shutil.copy(module, target)
        try:
            client.submit_job(
                entrypoint="raybench run experiment.yaml",
                submission_id=job_id,
                metadata={"run": experiment.name, "experiment": experiment.digest, "by": getpass.getuser()},
                runtime_env={"working_dir": folder, "env_vars": _ENVIRONMENT},
                entrypoint_resources=resources or None,
            )
        except _GONE as error:
            raise ClusterUnreachable(f"the cluster at {address} does not take the job: {error}") from error
    return Job(client, job_id)


def connected_client(address: str) -> JobSubmissionClient:
    """Return a client of a head that answers. Raises InputError for a wrong address, or ClusterUnreachable."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{address!r} is not where jobs are submitted; give http://HOST:{DASHBOARD_PORT}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), ANSWER_S).close()  # the client itself would wait for minutes
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} does not accept this machine's token: {LET_IN}"
        ) from error
    except _GONE as error:
        raise ClusterUnreachable(
            f"no Ray cluster takes jobs at {address}: {error}. Forward the port of its dashboard, {DASHBOARD_PORT}, or "
            "correct the address"
        ) from error


def _own_modules(experiment: Experiment, folder: Path) -> Iterator[Path]:
    """Yield the modules and packages of detectors named `package.module:Class` that lie in a folder.

    What they import from the folder is part of a detector's identity, and goes with them.
    """
    names = {choice.name for choice in experiment.all_models if ":" in choice.name}
    tops = {name.partition(":")[0].partition(".")[0] for name in names}
    paths = [path for top in tops for path in (folder / top, folder / f"{top}.py") if path.exists()]
    for name in sorted({Path(file).parts[0] for path in paths for file in modules_of(path)}):
        yield folder / name
