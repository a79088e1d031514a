"""The Ray tasks: one job each. Torch is imported here, inside the worker, never in the driver."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass

import ray

from raybench.lines.manifest import Manifest
from raybench.results import Failure
from raybench.runs import Run
from raybench.schedule.backlog import Job
from raybench.store import Store

# A CPU worker is always used again; GPU tasks would by default get a fresh process each, and pay the import again.
REUSE_WORKER = 0
TRACEBACK_CHARS = 8000


@dataclass(frozen=True)
class Outcome:
    """seconds: inside the task. failure: None when the job is committed."""

    seconds: float
    failure: Failure | None = None


@dataclass(frozen=True)
class Desk:
    """What every task of a run needs besides its job."""

    run: Run
    lines: Store
    device: str
    weights: Store | None = None


@ray.remote(max_calls=REUSE_WORKER)
def execute(job: Job, manifest: Manifest, desk: Desk, threads: int, attempt: int) -> Outcome:
    """Do `job` and commit it; an exception becomes a Failure."""
    started = time.perf_counter()
    try:
        _work(job, manifest, desk, threads)
    except Exception as error:
        return Outcome(time.perf_counter() - started, failure_of(job, error, attempt))
    return Outcome(time.perf_counter() - started)


def _work(job: Job, manifest: Manifest, desk: Desk, threads: int) -> None:
    from raybench.work import conclude, measure, score, site, train

    place = site.Site(desk.run, desk.lines, site.node_cache(), desk.device, threads, desk.weights)
    if job.phase == "train":
        train.train(job.unit, manifest, place)
    elif job.phase == "score" and job.shard is not None:
        score.score(job.unit, manifest, job.shard, place)
    elif job.phase == "measure":
        measure.measure(job.unit, manifest, place)
        conclude.conclude(job.unit, manifest, desk.run)
    else:
        raise ValueError(f"no such task: {job.phase}")


def failure_of(job: Job, error: BaseException, attempt: int) -> Failure:
    """`error` as a row. The traceback is cut at its older end."""
    text = "".join(traceback.format_exception(error))
    return Failure(job.phase, type(error).__name__, str(error), text[-TRACEBACK_CHARS:], attempt)
