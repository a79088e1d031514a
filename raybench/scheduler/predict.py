"""Score the shards of a prediction on Ray, with the task that scores a run's shards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from raybench.config.experiment import Resources
from raybench.data.manifest import ShardInfo
from raybench.errors import RunStopped
from raybench.runs.records import Failure
from raybench.scheduler import gpus
from raybench.scheduler.backlog import Job
from raybench.scheduler.cluster import cluster_capacity, connected
from raybench.scheduler.retries import Retries
from raybench.scheduler.stop import Stop, stoppable
from raybench.scheduler.tasks import Attempt, LineContext, Outcome, execute, pack_args
from raybench.scheduler.window import Window, outcome_of, wait
from raybench.worker.predict import Prediction

Done = Callable[[ShardInfo], None]


def score_on_cluster(prediction: Prediction, resources: Resources, address: str, done: Done) -> dict[str, Failure]:
    """Connect to the cluster at `address` and score there; see `score_shards`."""
    with connected(address):
        return score_shards(prediction, resources, done)


def score_shards(prediction: Prediction, resources: Resources, done: Done) -> dict[str, Failure]:
    """Score the shards that are not scored yet on the connected cluster.

    Args:
        prediction: a trained unit and new images.
        resources: of the experiment.
        done: called with each shard that is scored or has failed.

    Returns:
        Failures by shard; all other shards are committed.

    Raises:
        InputError: not even one task fits the cluster.
        RunStopped: on SIGTERM or SIGINT.
    """
    with stoppable() as stop:
        return _Scoring(prediction, resources, done).drain(stop)


class _Scoring:
    """The shards that are left to score."""

    def __init__(self, prediction: Prediction, resources: Resources, done: Done) -> None:
        self.capacity, self.resources, self.done = cluster_capacity(resources), resources, done
        context = LineContext(prediction.run, prediction.images, prediction.manifest, self.capacity.device)
        self._context = pack_args(context)
        self._retries = Retries(resources.retries)
        self._waiting = deque(Job("score", prediction.unit, shard.rows, (shard,)) for shard in prediction.waiting())
        self._running = Window[Job]()

    def drain(self, stop: Stop) -> dict[str, Failure]:
        failed: dict[str, Failure] = {}
        while self._waiting or self._running:
            if stop.asked:
                raise RunStopped(f"stopped by {stop.asked}: run the same command again to do the rest")
            while self._waiting and len(self._running) < self.capacity.count * self.resources.in_flight:
                job = self._waiting.popleft()
                self._running.submit(job, self._submit(job))
            for job, reference in self._running.take(wait(self._running)):
                outcome = outcome_of(reference, job.phase, attempt=1)
                if outcome.failure and self._put_back(job, outcome):
                    continue
                for shard in job.shards:
                    failed |= {shard.key: outcome.failure} if outcome.failure else {}
                    self.done(shard)
        return failed

    def _submit(self, job: Job) -> Any:
        retries, limit_s = self._retries, self.resources.unit_timeout_s
        share = self.capacity.gpus
        attempt = Attempt(1, self.capacity.cpus, limit_s, retries.halvings(job), retries.again(job), share)
        task: Any = execute.options(
            num_cpus=self.capacity.cpus,
            num_gpus=share,
            max_retries=0,
            name=f"predict {job.unit.model}",
            scheduling_strategy="SPREAD",
        )
        return task.remote(pack_args((job, attempt)), self._context)

    def _put_back(self, job: Job, outcome: Outcome) -> bool:
        """Queue a failed job again, unless it has failed for good. While the store or a disk fails, nothing begins."""
        if outcome.retry_reason in gpus.ENDING:
            self._retries.expect_end()
        pause_s = self._retries.pause_s(job, outcome.retry_reason) if outcome.retry_reason else None
        if pause_s is None:
            return False
        time.sleep(pause_s)
        self._waiting.appendleft(job)
        return True
