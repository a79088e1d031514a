"""Decide which tasks are tried again within a run, and after what pause. Does not use Ray.

Ray's own retries do not know why a worker died. Here a hang is not tried again, a lack of memory is answered with
smaller batches or, on a shared GPU, with a whole one, and a failing store or disk with a pause.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from raybench.scheduler.backlog import Job

PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MAX_HALVINGS = 4  # from the largest batch, 16 images, down to one

RetryReason = Literal["worker_died", "oom", "shared_oom", "infrastructure"]
Key = tuple[str, str, str]


class Retries:
    """Counts the tries of each task."""

    def __init__(self, limit: int) -> None:
        """limit: how often a task may be tried again."""
        self.limit = limit
        self._tries: Counter[Key] = Counter()
        self._halvings: Counter[Key] = Counter()

    def pause_s(self, job: Job, reason: RetryReason) -> float | None:
        """Count a try; return the seconds until `job` is tried again, or None when it has failed.

        Halving the batch after "oom" does not count against the limit.
        """
        key = _key(job)
        if reason == "oom" and job.phase == "score" and self._halvings[key] < MAX_HALVINGS:
            self._halvings[key] += 1
            return 0.0
        if self._tries[key] >= self.limit:
            return None
        self._tries[key] += 1
        return min(PAUSE_S * 2 ** (self._tries[key] - 1), LONGEST_PAUSE_S) if reason == "infrastructure" else 0.0

    def again(self, job: Job) -> bool:
        """Return whether `job` has been tried before."""
        return bool(self._tries[_key(job)] or self._halvings[_key(job)])

    def halvings(self, job: Job) -> int:
        """Return how often the batch of `job` has been halved."""
        return self._halvings[_key(job)]


def _key(job: Job) -> Key:
    return job.unit.unit_id, job.phase, job.shard.key if job.shard else ""
