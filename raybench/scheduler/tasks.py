"""The Ray tasks: one job each. Torch is imported here, inside the worker, never in the driver."""

from __future__ import annotations

import errno
import functools
import pickle
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import ray

from raybench.data.line import Line
from raybench.data.manifest import Manifest
from raybench.detectors import registry
from raybench.errors import (
    GpuUnusable,
    InputError,
    StoreError,
    StoreUnreachable,
    TimeLimit,
    WeightsCorrupt,
    WeightsMissing,
    is_gpu_lost,
    is_out_of_memory,
)
from raybench.runs.records import Failure, Phase, ResourceUsage
from raybench.runs.run import RunStore
from raybench.scheduler import gpus
from raybench.scheduler.backlog import Job
from raybench.scheduler.prometheus import metered
from raybench.scheduler.retries import RetryReason
from raybench.scheduler.timeout import time_limit
from raybench.store import Store
from raybench.worker import memory

# A CPU worker is always used again; GPU tasks would by default get a fresh process each, and pay the import again.
# The default guards against memory that stays allocated, a changed GPU and a lost one: see `gpus`.
REUSE_WORKER = 0
NODE_ID = "ray.io/node-id"  # Ray's label of each node
TRACEBACK_CHARS = 8000
INLINE_BYTES = 50_000  # Ray itself carries 100,000 with a task
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
# The driver has checked the store, the experiment and its models: a node may lack credentials, a file or a package.
_MAY_BE_THE_NODES = (StoreError, InputError, WeightsMissing, WeightsCorrupt, ImportError)


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    seconds: float
    """Wall time inside the task; 0 when its worker was lost."""
    failure: Failure | None = None
    """None when the job is committed."""
    retry_reason: RetryReason | None = None
    """Why to try again; None when the failure is the model's."""
    usage: ResourceUsage | None = None
    """Time, CPU, GPU and memory used by the job that committed, now or earlier."""
    node_id: str = ""
    """Ray's ID of the node that ran it; empty when its worker was lost."""


@dataclass(frozen=True)
class LineContext:
    """What every task on a line needs besides its job."""

    run: RunStore
    """The run in its store."""
    lines: Store
    """The store of packed lines that holds this one."""
    manifest: Manifest
    """The line's manifest."""
    device: str
    """torch's name of the device: "cpu" or "cuda"."""
    weights: Store | None = None
    """The store of pretrained weights; None where the experiment names none."""
    measure_s: float = 2.0
    """Seconds that timing a unit takes, warm-up aside."""
    writable: bool = True
    """Whether `lines` belongs to the run's store, so that results about the line may be written there."""
    helped: bool = False
    """Whether nodes without a GPU decode shards ahead."""
    together: tuple[Line, ...] = ()
    """All lines that a detector is fitted on together; empty for other tasks."""


@dataclass(frozen=True)
class Attempt:
    """How a job is executed this time. No result depends on it."""

    number: int
    """1 for the first run that tries the unit; one more for each run in which it failed."""
    threads: int
    """CPU cores of the task."""
    limit_s: float | None = None
    """Seconds after which the task is ended; None: never."""
    halvings: int = 0
    """How often the batch is halved, because memory ran out."""
    again: bool = False
    """Whether the task, or its unit in an earlier run, has been tried before."""
    gpus: float = 0.0
    """Share of a GPU."""


def pack_args(value: Any) -> Any:
    """Pickle an argument of many tasks once, for `unpack_args`.

    Ray would pickle the same context for every task, which takes the driver a third of a millisecond. A reference is
    more expensive, a millisecond of the driver's CPU per task: Ray counts its holders, tells every node where the
    object is, and does not let tasks with different references take over each other's workers.

    Returns:
        Bytes, or a reference to them in Ray's object store where they exceed INLINE_BYTES.
    """
    packed = pickle.dumps(value)
    return packed if len(packed) <= INLINE_BYTES else ray.put(packed)


def unpack_args(packed: bytes) -> Any:
    """Return the value that `pack_args` pickled."""
    return pickle.loads(packed)  # noqa: S301  # the driver made it; Ray itself unpickles arguments alike


@ray.remote(max_calls=REUSE_WORKER)
def execute(job_args: bytes, context_args: bytes) -> Outcome:
    """Execute a job and commit it; an exception becomes a Failure.

    Args:
        job_args: (Job, Attempt), packed.
        context_args: LineContext, packed.
    """
    started = time.perf_counter()
    gpus.end_if_due()
    memory.tune_malloc()
    job, attempt = unpack_args(job_args)
    context: LineContext = unpack_args(context_args)
    if job.judges:
        context = replace(context, device="cpu")
    try:
        on_timeout = functools.partial(_record_timeout, job, context, attempt)
        with time_limit(attempt.limit_s, on_timeout), metered(context.run.name, job, attempt.again):
            usage = _work(job, context, attempt)
    except Exception as error:
        outcome = _failed(error, job, attempt, time.perf_counter() - started)
    else:
        outcome = Outcome(time.perf_counter() - started, usage=usage)
    if outcome.retry_reason in gpus.ENDING:
        gpus.end_soon()
    else:
        _free_memory(job, context)
    return replace(outcome, node_id=ray.get_runtime_context().get_node_id())


def _failed(error: Exception, job: Job, attempt: Attempt, seconds: float) -> Outcome:
    """Say why a task failed; a failure that may be a GPU's or a node's names it."""
    failure, reason = failure_of(job.phase, error, attempt.number), retry_reason(error, attempt.gpus)
    if reason in {"gpu_lost", "node"}:
        failure = replace(failure, message=f"{failure.message} [{gpus.where()}]")
    return Outcome(seconds, failure, reason)


def _work(job: Job, context: LineContext, attempt: Attempt) -> ResourceUsage | None:
    """Imports are made by phase: torch takes seconds, and neither merging nor every detector's training needs it."""
    if job.phase == "aggregate":
        from raybench.worker import merge

        merge.merge(job.unit, context.manifest, context.run, merge.Partials())
        return None
    from raybench.worker.batches import MAX_BATCH
    from raybench.worker.context import WorkerContext, node_cache

    if context.device != "cpu":
        gpus.prepare(attempt.gpus, registry.uses_torch(job.unit.detector))
    worker_context = WorkerContext(
        run=context.run,
        lines=context.lines,
        cache_dir=node_cache(),
        device=context.device,
        threads=attempt.threads,
        weights_store=context.weights,
        batch=max(1, MAX_BATCH[context.device] >> attempt.halvings),
        measure_s=context.measure_s,
        gpus=attempt.gpus,
        helped=context.helped,
    )
    if job.phase == "fit":
        from raybench.worker import train

        return train.fit_together(job.unit, context.together, worker_context).spent
    if job.phase == "train":
        from raybench.worker import train

        return train.train(job.unit, context.manifest, worker_context).spent
    if job.phase == "score":
        from raybench.worker import score

        records = score.score_shards(job.unit, context.manifest, job.shards, worker_context)
        return functools.reduce(ResourceUsage.plus, (record.spent for record in records))
    if job.phase == "robustness" and job.perturbed:
        from raybench.worker import robustness

        return robustness.score_perturbed(job.unit, context.manifest, job.perturbed, worker_context).spent
    if job.phase == "measure":
        from raybench.worker import merge, timing

        measured = timing.measure(job.unit, context.manifest, worker_context)
        merge.finalize(job.unit, context.run)
        return measured.spent
    raise ValueError(f"no such task: {job.phase}")


def _free_memory(job: Job, context: LineContext) -> None:
    """Return freed memory, because the worker lives on and others share its node or GPU. Scoring and timing keep what
    little they hold of the node's, and their next task uses it again."""
    if job.phase in {"fit", "train"}:
        memory.trim()
    if context.device != "cpu" and job.phase != "aggregate":
        from raybench.detectors import device

        device.give_back_memory(context.device)
        gpus.end_if_left_idle()


def _record_timeout(job: Job, context: LineContext, attempt: Attempt, stack: str) -> None:
    message = (
        f"no end after {attempt.limit_s:.1f} s, what was left of resources.unit_timeout_s; it hung at the traceback"
    )
    failure = Failure(job.phase, TimeLimit.__name__, message, stack[-TRACEBACK_CHARS:], attempt.number)
    context.run.record_failure(job.unit.unit_id, failure)


def failure_of(phase: Phase, error: BaseException, attempt: int) -> Failure:
    """Make a row of `error`. The traceback is cut at its older end."""
    text = "".join(traceback.format_exception(error))
    return Failure(phase, type(error).__name__, str(error), text[-TRACEBACK_CHARS:], attempt)


def retry_reason(error: BaseException, share: float = 0.0) -> RetryReason | None:
    """Return why to try again after `error`; None when it is the model's.

    Args:
        error: raised by the task, or by Ray in its place.
        share: of a GPU that the task had.
    """
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "oom"
    if isinstance(error, ray.exceptions.NodeDiedError):
        return "node_lost"
    if isinstance(error, ray.exceptions.RayError):
        return "worker_died"
    if isinstance(error, StoreUnreachable) or (isinstance(error, OSError) and error.errno in _DISK):
        return "infrastructure"
    if isinstance(error, GpuUnusable):
        return "gpu_unusable"
    if isinstance(error, gpus.NotBegun):
        return "not_begun"
    if is_gpu_lost(error):
        return "gpu_lost"
    if share and is_out_of_memory(error):
        return "shared_oom" if share < 1 else "gpu_oom"
    return "node" if isinstance(error, _MAY_BE_THE_NODES) else None


def only_off(node_ids: Collection[str]) -> dict[str, str] | None:
    """Return Ray's label selector of all nodes but these."""
    return {NODE_ID: f"!in({','.join(sorted(node_ids))})"} if node_ids else None
