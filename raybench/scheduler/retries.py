"""Decide which tasks are tried again within a run, and after what pause. Does not use Ray.

Ray's own retries do not know why a worker died. Here a hang is not tried again, a lack of memory is answered with
smaller batches or, on a shared GPU, with a whole one, and a failing store or disk with a pause. A whole GPU is not an
empty one, because idle processes hold some of its memory: where it is too little, the task waits until they have ended.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from raybench.scheduler.backlog import Job

PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
IDLE_S = 60.0  # after its last task, a process that holds memory of a GPU ends
GPU_PAUSE_S = IDLE_S + 5.0
MAX_LOST_NODES = 10  # under a task, before it may be the cause itself
MAX_HALVINGS = 5  # from the largest batch, 32 images on a GPU, down to one
_SCORING = ("score", "robustness")  # phases with a batch

RetryReason = Literal[
    "worker_died",
    "node_lost",
    "oom",
    "shared_oom",
    "gpu_oom",
    "infrastructure",
    "node",
    "gpu_lost",
    "gpu_unusable",
    "not_begun",
]
"""Why to try a task again. "node_lost": its whole node is gone, as spot machines go. "oom" is of the host, "gpu_oom" of
a whole GPU. "node": perhaps it would not fail on another node, see `health`. "gpu_lost": the process cannot use its GPU
any more; "gpu_unusable": it never could, and the task did not begin. "not_begun": the process had to end first."""
Key = tuple[str, str, str]


class Retries:
    """Counts the tries of each task."""

    def __init__(self, limit: int) -> None:
        """limit: how often a task may be tried again."""
        self.limit = limit
        self._tries: Counter[Key] = Counter()
        self._halvings: Counter[Key] = Counter()
        self._lost_nodes: Counter[Key] = Counter()
        self._ending = 0

    def expect_end(self) -> None:
        """Note that a process ends at its next task. That is no try of the task."""
        self._ending += 1

    def pause_s(self, job: Job, reason: RetryReason) -> float | None:
        """Count a try; return the seconds until `job` is tried again, or None when it has failed.

        Halving the batch after "oom" does not count against the limit, nor does a node that was lost, nor a task that
        has not begun.
        """
        key = key_of(job)
        if reason == "worker_died" and self._ending:
            self._ending -= 1
            return 0.0
        if reason == "not_begun":
            return 0.0
        if reason == "node_lost" and self._lost_nodes[key] < MAX_LOST_NODES:
            self._lost_nodes[key] += 1
            return _pause_s(self._lost_nodes[key])  # Ray may still offer the node that is gone
        if reason == "oom" and job.phase in _SCORING and self._halvings[key] < MAX_HALVINGS:
            self._halvings[key] += 1
            return 0.0
        if self._tries[key] >= self.limit:
            return None
        self._tries[key] += 1
        if reason == "gpu_oom":
            return GPU_PAUSE_S
        return _pause_s(self._tries[key]) if reason == "infrastructure" else 0.0

    def again(self, job: Job) -> bool:
        """Return whether `job` has been tried before."""
        key = key_of(job)
        return bool(self._tries[key] or self._halvings[key] or self._lost_nodes[key])

    def halvings(self, job: Job) -> int:
        """Return how often the batch of `job` has been halved."""
        return self._halvings[key_of(job)]


def _pause_s(number: int) -> float:
    """Return the pause before a task is tried again for the so-many-th time."""
    return min(PAUSE_S * 2.0 ** (number - 1), LONGEST_PAUSE_S)


def key_of(job: Job) -> Key:
    """Return what tells a task from all others of a run."""
    part = job.shards[0].key if job.shards else job.perturbed.perturbation.name if job.perturbed else ""
    return job.unit.unit_id, job.phase, part
