"""Run jobs on Ray that do not wait for each other: a bounded window, what may be tried again is, failures are kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import ray

from raybench.config.experiment import Resources
from raybench.errors import RunStopped
from raybench.runs.records import Failure
from raybench.scheduler import gpus
from raybench.scheduler.backlog import Job
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.cluster import alive
from raybench.scheduler.health import NodeHealth
from raybench.scheduler.retries import Retries
from raybench.scheduler.stop import Stop, stoppable
from raybench.scheduler.tasks import Attempt, LineContext, Outcome, execute, only_off, pack_args
from raybench.scheduler.window import Window, outcome_of, wait

Done = Callable[[Job, Failure | None], None]
_Flight = tuple[Job, frozenset[str]]  # with the nodes on which it must not run


def run_jobs(jobs: Iterable[Job], context: LineContext, resources: Resources, name: str, done: Done) -> None:
    """Run jobs of one line on the connected cluster.

    Args:
        jobs: jobs whose units are trained.
        context: what they need besides; the device becomes that of the cluster.
        resources: of the experiment.
        name: what the tasks do, for Ray's dashboard.
        done: called with each job that has ended, and why it failed; None: it is committed.

    Raises:
        InputError: not even one task fits the cluster.
        RunStopped: on SIGTERM or SIGINT.
    """
    with stoppable() as stop:
        _Jobs(jobs, context, resources, name, done).drain(stop)


class _Jobs:
    """The jobs that are left."""

    def __init__(self, jobs: Iterable[Job], context: LineContext, resources: Resources, name: str, done: Done) -> None:
        self.cluster, self.resources, self.name, self.done = Cluster(resources, alive), resources, name, done
        self._context = pack_args(replace(context, device=self.cluster.capacity.device))
        self._retries = Retries(resources.retries)
        self._health = NodeHealth()
        self._waiting = deque(jobs)
        self._running = Window[_Flight]()

    def drain(self, stop: Stop) -> None:
        while self._waiting or self._running:
            if stop.asked:
                raise RunStopped(f"stopped by {stop.asked}: run the same command again to do the rest")
            while self._waiting and len(self._running) < self._slots * self.resources.in_flight:
                self._submit(self._waiting.popleft())
            for (job, _), reference in self._running.take(wait(self._running)):
                outcome = outcome_of(reference, job.phase, attempt=1)
                if outcome.failure and self._put_back(job, outcome, outcome.failure):
                    continue
                if outcome.failure is None:
                    self._health.finished(job, outcome.node_id)
                self.done(job, outcome.failure)
            self._recall_stranded()

    def _submit(self, job: Job) -> None:
        avoided = frozenset(self._health.avoided(job, self._alive()))
        retries, limit_s = self._retries, self.resources.unit_timeout_s
        cpus, share = self.cluster.capacity.cpus, self.cluster.capacity.gpus
        attempt = Attempt(1, cpus, limit_s, retries.halvings(job), retries.again(job), share)
        task: Any = execute.options(
            num_cpus=cpus,
            num_gpus=share,
            max_retries=0,
            name=f"{self.name} {job.unit.model}",
            scheduling_strategy="SPREAD",
            label_selector=only_off(avoided),
        )
        self._running.submit((job, avoided), task.remote(pack_args((job, attempt)), self._context))

    def _put_back(self, job: Job, outcome: Outcome, failure: Failure) -> bool:
        """Queue a failed job again, unless it has failed for good. While the store or a disk fails, nothing begins."""
        reason = outcome.retry_reason
        if reason in gpus.ENDING:
            self._retries.expect_end()
        if reason in {"node", "infrastructure"}:
            self._health.failed(job, outcome.node_id, failure.message)
        if reason == "node":
            pause_s = 0.0 if self._health.may_try_elsewhere(job, self._alive()) else None
        else:
            pause_s = self._retries.pause_s(job, reason) if reason else None
        if pause_s is None:
            return False
        time.sleep(pause_s)
        self._waiting.appendleft(job)
        return True

    def _recall_stranded(self) -> None:
        """Queue jobs again that wait for nodes which are gone."""
        if any(avoided for _, avoided in self._running):
            alive = self._alive()
            for (job, _), reference in self._running.take_if(lambda flight: bool(flight[1]) and flight[1] >= alive):
                ray.cancel(reference, force=True)
                self._waiting.appendleft(job)

    @property
    def _slots(self) -> int:
        return max(self.cluster.capacity.count, 1)

    def _alive(self) -> set[str]:
        return {node.node_id for node in self.cluster.capacity.nodes}
