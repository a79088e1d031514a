"""Run a plan on Ray: submit a bounded window of tasks, hand their commits to the aggregator, keep every failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.findings.board import Board
from raybench.plan import Plan
from raybench.results import Failure
from raybench.runs import Run
from raybench.schedule.aggregator import Aggregator
from raybench.schedule.backlog import Backlog, Job
from raybench.schedule.cluster import Slots, slots
from raybench.schedule.tasks import Desk, Outcome, execute, failure_of

WAIT_S = 0.5
Watcher = Callable[[Backlog], None]


@dataclass(frozen=True)
class Summary:
    """units: of the plan. reused: done before this run. failed: given up in this run, by unit_id."""

    board: Board
    units: int
    reused: int
    failed: dict[str, Failure]


def run_plan(plan: Plan, watch: Watcher = lambda backlog: None) -> Summary:
    """Do what is left of `plan` on the connected cluster, then report.

    watch: called at least every half second with the backlog, to show progress. Failed units become rows of the
    board. Raises StoreError, and InputError when not even one task fits the cluster.
    """
    run = Run(plan.store, plan.experiment.name)
    plan.store.check()
    run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
    fit = slots(plan.experiment.resources)
    commits = run.commits()
    backlog = Backlog(plan.units, plan.manifests, commits)
    dispatch = _Dispatch(plan, run, fit, backlog, commits)
    dispatch.drain(watch)
    board = ray.get(dispatch.aggregator.report.remote(datetime.now(UTC).isoformat(timespec="seconds")))
    return Summary(board, len(plan.units), backlog.reused, dispatch.failed)


class _Dispatch:
    """The tasks in flight. Everything that lasts is in the store."""

    def __init__(self, plan: Plan, run: Run, fit: Slots, backlog: Backlog, commits: dict[str, set[str]]) -> None:
        self.plan, self.run, self.fit, self.backlog = plan, run, fit, backlog
        self.aggregator = Aggregator.remote(plan)  # type: ignore[attr-defined]
        self.failed: dict[str, Failure] = {}
        self._desk = ray.put(Desk(run, plan.store.sub("lines"), fit.device, plan.weights))
        self._manifests = {line: ray.put(manifest) for line, manifest in plan.manifests.items()}
        self._attempts = {unit_id: self._attempt(unit_id) for unit_id, names in commits.items() if "failure" in names}
        self._running: dict[Any, Job] = {}
        self._idle_nodes = list(fit.nodes)
        self._measured_on: dict[Any, Any] = {}

    def drain(self, watch: Watcher) -> None:
        while True:
            self._fill()
            watch(self.backlog)
            if not self._running:
                return
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_S)
            for reference in done:
                self._receive(reference)

    def _fill(self) -> None:
        window = self.fit.count * self.plan.experiment.resources.in_flight
        while len(self._running) < window and (job := self._next()) is not None:
            self._running[self._submit(job)] = job

    def _next(self) -> Job | None:
        measuring = any(job.phase == "measure" for job in self._running.values())
        busy = any(job.phase != "measure" for job in self._running.values())
        if measuring and not self._idle_nodes:
            return None
        return self.backlog.take(busy)

    def _submit(self, job: Job) -> Any:
        attempt = self._attempts.get(job.unit.unit_id, 0) + 1
        if job.phase == "aggregate":
            return self.aggregator.close.remote(job, attempt)
        retries = self.plan.experiment.resources.retries
        name = f"{job.phase} {job.unit}"
        arguments = (job, self._manifests[job.unit.line], self._desk)
        if job.phase != "measure":
            task: Any = execute.options(num_cpus=self.fit.cpus, num_gpus=self.fit.gpus, max_retries=retries, name=name)
            return task.remote(*arguments, self.fit.cpus, attempt)
        return self._submit_alone(arguments, attempt, {"max_retries": retries, "name": name})

    def _submit_alone(self, arguments: tuple[Any, ...], attempt: int, options: dict[str, Any]) -> Any:
        """A task that has a whole node's CPUs, and one whole GPU where there are any, to itself."""
        node = self._idle_nodes.pop()
        task: Any = execute.options(
            num_cpus=node.cpus,
            num_gpus=1 if self.fit.gpus else 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=True),
            **options,
        )
        reference = task.remote(*arguments, node.cpus, attempt)
        self._measured_on[reference] = node
        return reference

    def _receive(self, reference: Any) -> None:
        job = self._running.pop(reference)
        if node := self._measured_on.pop(reference, None):
            self._idle_nodes.append(node)
        failure = self._failure(reference, job)
        if failure is None:
            self.backlog.finish(job)
            if job.shard is not None:
                self.aggregator.add.remote(job.unit.unit_id, job.shard.key)
        elif self.backlog.fail(job):
            self.failed[job.unit.unit_id] = failure
            self.run.record_failure(job.unit.unit_id, failure)
            self.aggregator.drop.remote(job.unit.unit_id)

    def _failure(self, reference: Any, job: Job) -> Failure | None:
        """What went wrong, a worker that died or a node that was lost included."""
        attempt = self._attempts.get(job.unit.unit_id, 0) + 1
        try:
            answer: Outcome = ray.get(reference)
        except ray.exceptions.RayError as error:
            return failure_of(job, error, attempt)
        return answer.failure

    def _attempt(self, unit_id: str) -> int:
        failure = self.run.read(unit_id, "failure", Failure)
        return failure.attempt if failure else 0
