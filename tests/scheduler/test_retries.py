from __future__ import annotations

import errno
import random
import time

import ray

from raybench.errors import (
    GpuUnusable,
    InputError,
    IntegrityError,
    ModelError,
    ObjectMissing,
    StoreDenied,
    StoreUnreachable,
    WeightsMissing,
)
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.gpus import NotBegun
from raybench.scheduler.retries import IDLE_S, LONGEST_PAUSE_S, MAX_HALVINGS, MAX_LOST_NODES, Retries
from raybench.scheduler.tasks import retry_reason
from raybench.worker.batches import MAX_BATCH
from tests.support.backlog import drain, manifest, unit

LINES = {"a": manifest("a", 2)}
SHARD = LINES["a"].scored_shards[0]
TRAIN, SCORE = Job("train", unit("a", 0), 0), Job("score", unit("a", 0), 10, (SHARD,))


def test_a_dead_worker_is_replaced_at_once_and_not_for_ever() -> None:
    retries = Retries(2)
    assert [retries.pause_s(TRAIN, "worker_died") for _ in range(3)] == [0.0, 0.0, None]
    assert retries.pause_s(SCORE, "worker_died") == 0.0


def test_a_lost_node_is_no_try_of_its_tasks() -> None:
    retries = Retries(1)
    pauses = [retries.pause_s(TRAIN, "node_lost") for _ in range(MAX_LOST_NODES)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE_S] * (MAX_LOST_NODES - 5)]
    assert retries.again(TRAIN)
    assert retries.pause_s(TRAIN, "worker_died") == 0.0
    assert retries.pause_s(TRAIN, "node_lost") is None, "so many nodes lost under one task may be its own work"
    lost = ray.exceptions.NodeDiedError("preempted")  # type: ignore[no-untyped-call]
    assert retry_reason(lost) == "node_lost"
    assert retry_reason(ray.exceptions.WorkerCrashedError()) == "worker_died"


def test_trouble_around_is_given_time() -> None:
    retries = Retries(7)
    pauses = [retries.pause_s(TRAIN, "infrastructure") for _ in range(8)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S, None]


def test_want_of_memory_halves_the_batch_down_to_one_image() -> None:
    retries = Retries(0)
    assert [retries.pause_s(SCORE, "oom") for _ in range(MAX_HALVINGS + 1)] == [0.0] * MAX_HALVINGS + [None]
    assert max(MAX_BATCH.values()) >> retries.halvings(SCORE) == 1
    assert retries.pause_s(TRAIN, "oom") is None


def test_who_ran_out_of_memory_beside_others_is_tried_again() -> None:
    retries = Retries(1)
    assert [retries.pause_s(SCORE, "shared_oom") for _ in range(2)] == [0.0, None]
    assert retries.halvings(SCORE) == 0


def test_who_ran_out_of_memory_on_a_whole_gpu_waits_until_idle_processes_have_left_it() -> None:
    retries = Retries(1)
    pause_s = retries.pause_s(SCORE, "gpu_oom")
    assert pause_s is not None
    assert pause_s > IDLE_S
    assert retries.pause_s(SCORE, "gpu_oom") is None


def test_a_process_that_has_to_end_costs_no_task_a_try() -> None:
    retries = Retries(0)
    assert [retries.pause_s(TRAIN, "not_begun") for _ in range(3)] == [0.0] * 3
    retries.expect_end()
    assert [retries.pause_s(SCORE, "worker_died") for _ in range(2)] == [0.0, None]
    assert not retries.again(SCORE)


def test_whose_fault_it_is() -> None:
    assert retry_reason(MemoryError(), share=1.0) == "gpu_oom"
    assert retry_reason(RuntimeError("CUDA error: device-side assert triggered"), share=1.0) == "gpu_lost"
    assert retry_reason(GpuUnusable("x"), share=1.0) == "gpu_unusable"
    assert retry_reason(NotBegun("x"), share=1.0) == "not_begun"
    assert retry_reason(MemoryError(), share=0.5) == "shared_oom"
    assert retry_reason(type("OutOfMemoryError", (RuntimeError,), {})(), share=0.5) == "shared_oom"  # torch's
    assert retry_reason(ModelError("x"), share=0.5) is None
    assert retry_reason(ray.exceptions.WorkerCrashedError()) == "worker_died"
    assert retry_reason(ray.exceptions.OutOfMemoryError("x")) == "oom"  # type: ignore[no-untyped-call]
    assert retry_reason(StoreUnreachable("x")) == "infrastructure"
    assert retry_reason(OSError(errno.ENOSPC, "full")) == "infrastructure"
    error: Exception
    for error in (StoreDenied("x"), ObjectMissing("x"), InputError("x"), WeightsMissing("x"), ModuleNotFoundError("x")):
        assert retry_reason(error) == "node"
    for error in (ModelError("x"), IntegrityError("x"), MemoryError(), OSError(errno.ENOENT, "x")):
        assert retry_reason(error) is None


def test_a_job_comes_back_after_its_pause() -> None:
    backlog = Backlog([unit("a", 0)], LINES, {})
    job = backlog.take(busy=False)
    assert job is not None
    backlog.put_back(job, 0.1)
    assert backlog.waiting
    assert backlog.take(busy=False) is None
    time.sleep(0.15)
    assert backlog.take(busy=False) == job
    assert not backlog.waiting


def test_jobs_that_wait_leave_with_their_unit() -> None:
    backlog = Backlog([unit("a", 0), unit("a", 1)], LINES, {})
    train = backlog.take(busy=False)
    assert train is not None
    backlog.finish(train)
    first, second = backlog.take(busy=True), backlog.take(busy=True)
    assert first is not None
    assert second is not None
    backlog.put_back(first, 0.0)
    assert backlog.fail(second)
    assert not backlog.is_open(second.unit.unit_id)
    order = drain(backlog, 1, random.Random(0), set())
    assert {job.unit.seed for job in order} == {1}
    for tally in backlog.tallies.values():
        assert tally.done + tally.failed == tally.total
