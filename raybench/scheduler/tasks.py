"""The Ray tasks: one job each. Torch is imported here, inside the worker, never in the driver."""

from __future__ import annotations

import errno
import functools
import pickle
import time
import traceback
from dataclasses import dataclass
from typing import Any

import ray

from raybench.data.manifest import Manifest
from raybench.errors import StoreUnreachable, TimeLimit
from raybench.runs.records import Failure, Phase, ResourceUsage
from raybench.runs.run import Run
from raybench.scheduler import gpus
from raybench.scheduler.backlog import Job
from raybench.scheduler.prometheus import metered
from raybench.scheduler.retries import RetryReason
from raybench.scheduler.timeout import time_limit
from raybench.store import Store
from raybench.worker import memory

# A CPU worker is always used again; GPU tasks would by default get a fresh process each, and pay the import again.
# What that default guards against is met here: memory is given back, and see `gpus` for a worker that changes its GPU.
REUSE_WORKER = 0
TRACEBACK_CHARS = 8000
INLINE_BYTES = 50_000  # Ray itself carries 100,000 with a task
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


@dataclass(frozen=True)
class Outcome:
    """seconds: inside the task. failure: None when the job is committed. trouble: what the failure is due to, where
    that is not the model. spent: by the job that committed, now or earlier."""

    seconds: float
    failure: Failure | None = None
    trouble: RetryReason | None = None
    spent: ResourceUsage | None = None


@dataclass(frozen=True)
class LineContext:
    """What every task on a line needs besides its job. lines: the store of lines that holds it. manifest: the line's.
    own: whether the store is the run's own. measure_s: for timing a unit. helped: nodes without a GPU decode for those
    with one."""

    run: Run
    lines: Store
    manifest: Manifest
    device: str
    weights: Store | None = None
    measure_s: float = 2.0
    own: bool = True
    helped: bool = False


@dataclass(frozen=True)
class Attempt:
    """How to go about a job; changes no number. limit_s: seconds until the task is ended. halvings: of the batch.
    again: whether the task, or its unit in an earlier run, has been tried before. gpus: share of a GPU."""

    attempt: int
    threads: int
    limit_s: float | None = None
    halvings: int = 0
    again: bool = False
    gpus: float = 0.0


def pack_args(value: Any) -> Any:
    """`value` for many tasks, as bytes for `unpack_args`: in Ray's object store, once, where they are not few.

    Ray itself would pickle the same desk for every task, which takes the driver a third of a millisecond. And a
    reference is dear: Ray counts who holds it and tells every node where it lies, and tasks with different ones do not
    take over each other's workers. It costs the driver a millisecond of CPU per task.
    """
    packed = pickle.dumps(value)
    return packed if len(packed) <= INLINE_BYTES else ray.put(packed)


def unpack_args(packed: bytes) -> Any:
    """What `pack_args` was given."""
    return pickle.loads(packed)  # noqa: S301  # the driver made it; Ray itself unpickles arguments alike


@ray.remote(max_calls=REUSE_WORKER)
def execute(order: bytes, at: bytes) -> Outcome:
    """Do a job and commit it; an exception becomes a Failure.

    order, at: (Job, Attempt) and LineContext as arguments.
    """
    started = time.perf_counter()
    job, effort = unpack_args(order)
    desk: LineContext = unpack_args(at)
    try:
        time_is_up = functools.partial(_time_is_up, job, desk, effort)
        with time_limit(effort.limit_s, time_is_up), metered(desk.run.name, job, effort.again):
            spent = _work(job, desk, effort)
    except Exception as error:
        trouble = retry_reason(error, shared=0 < effort.gpus < 1)
        return Outcome(time.perf_counter() - started, failure_of(job, error, effort.attempt), trouble)
    finally:
        _leave(job, desk)
    return Outcome(time.perf_counter() - started, spent=spent)


def _work(job: Job, desk: LineContext, effort: Attempt) -> ResourceUsage | None:
    """What a phase needs is imported when it comes: torch takes seconds, and not every detector's training needs it."""
    from raybench.worker import context

    if desk.device != "cpu":
        gpus.choose()
    batch = max(1, context.MAX_BATCH >> effort.halvings)
    place = context.WorkerContext(
        run=desk.run,
        lines=desk.lines,
        cache_dir=context.node_cache(),
        device=desk.device,
        threads=effort.threads,
        weights_store=desk.weights,
        batch=batch,
        measure_s=desk.measure_s,
        gpus=effort.gpus,
        helped=desk.helped,
    )
    if job.phase == "train":
        from raybench.worker import train

        return train.train(job.unit, desk.manifest, place).spent
    if job.phase == "score" and job.shard is not None:
        from raybench.worker import score

        return score.score(job.unit, desk.manifest, job.shard, place).spent
    if job.phase == "measure":
        from raybench.worker import measure, merge

        measured = measure.measure(job.unit, desk.manifest, place)
        merge.finalize(job.unit, desk.manifest, desk.run)
        return measured.spent
    raise ValueError(f"no such task: {job.phase}")


def _leave(job: Job, desk: LineContext) -> None:
    """The worker lives on: others that share its node or its GPU need the memory that is kept for later. Scoring and
    timing take little, and the next of them takes it again."""
    if job.phase == "train":
        memory.trim()
    if desk.device != "cpu":
        from raybench.detectors import device

        device.give_back_memory(desk.device)


def _time_is_up(job: Job, desk: LineContext, effort: Attempt, stack: str) -> None:
    message = (
        f"no end after {effort.limit_s:.1f} s, what was left of resources.unit_timeout_s; it hung at the traceback"
    )
    name = TimeLimit.__name__
    failure = Failure(job.phase, name, message, stack[-TRACEBACK_CHARS:], effort.attempt)
    desk.run.record_failure(job.unit.unit_id, failure)


def failure_of(job: Job, error: BaseException, attempt: int) -> Failure:
    """`error` as a row."""
    return failure_in(job.phase, error, attempt)


def failure_in(phase: Phase, error: BaseException, attempt: int) -> Failure:
    """`error` as a row. The traceback is cut at its older end."""
    text = "".join(traceback.format_exception(error))
    return Failure(phase, type(error).__name__, str(error), text[-TRACEBACK_CHARS:], attempt)


def retry_reason(error: BaseException, shared: bool = False) -> RetryReason | None:
    """What `error` is due to, where that is not the model. shared: it came up on a GPU that others used too."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "oom"
    if isinstance(error, ray.exceptions.RayError):
        return "worker_died"
    if isinstance(error, StoreUnreachable) or (isinstance(error, OSError) and error.errno in _DISK):
        return "infrastructure"
    if shared and (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's
        return "shared_oom"
    return None
