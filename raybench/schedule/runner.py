"""Run a plan on Ray: submit a bounded window of tasks, hand their commits to the aggregator, keep every failure."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.errors import InputError, RunStopped, TimeLimit
from raybench.findings.board import Board
from raybench.ledger import READERS, Ledger
from raybench.plan import Plan
from raybench.results import Failure
from raybench.runs import Run
from raybench.schedule.aggregator import Aggregator
from raybench.schedule.backlog import Backlog, Job
from raybench.schedule.cluster import Node, Slots, slots
from raybench.schedule.metrics import watched
from raybench.schedule.retries import Retries
from raybench.schedule.stop import Stop, stoppable
from raybench.schedule.tasks import Desk, Effort, Outcome, execute, failure_of, trouble_of

WAIT_S = 0.5
PATIENCE_S = 120.0  # with a store in trouble, once it has been found to be there
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
    board. Raises StoreError, InputError when not even one task fits the cluster, and RunStopped on SIGTERM or SIGINT.
    """
    with stoppable() as stop:
        plan.store.check()
        plan = plan.patient(PATIENCE_S)
        run = Run(plan.store, plan.experiment.name)
        run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
        fit = slots(plan.experiment.resources)
        ledger = Ledger.read(run)
        entered = ledger.done
        commits = ledger.commits([unit.unit_id for unit in plan.units])
        backlog = Backlog(plan.units, plan.manifests, commits)
        new = [unit_id for unit_id, names in commits.items() if "result" in names and unit_id not in entered]
        dispatch = _Dispatch(plan, run, fit, backlog, commits)
        dispatch.aggregator.finished.remote(new)
        dispatch.drain(watched(run.name, len(plan.units), watch), stop)
        board = dispatch.report(stop)
    return Summary(board, len(plan.units), backlog.reused, dispatch.failed)


class _Dispatch:
    """The tasks in flight. Everything that lasts is in the store."""

    def __init__(self, plan: Plan, run: Run, fit: Slots, backlog: Backlog, commits: dict[str, set[str]]) -> None:
        self.plan, self.run, self.fit, self.backlog = plan, run, fit, backlog
        self.aggregator = Aggregator.remote(plan)  # type: ignore[attr-defined]
        self.failed: dict[str, Failure] = {}
        measure_s = plan.experiment.resources.measure_s
        self._desk = ray.put(Desk(run, plan.store.sub("lines"), fit.device, plan.weights, measure_s, plan.elsewhere))
        self._manifests = {line: ray.put(manifest) for line, manifest in plan.manifests.items()}
        failed = [unit_id for unit_id, names in commits.items() if "failure" in names]
        with ThreadPoolExecutor(READERS) as pool:
            self._attempts = dict(zip(failed, pool.map(self._attempt, failed), strict=True))
        self._running: dict[Any, Job] = {}
        self._measured_on: dict[Any, Node] = {}
        self._retries = Retries(plan.experiment.resources.retries)
        self._spent_s: defaultdict[str, float] = defaultdict(float)

    def drain(self, watch: Watcher, stop: Stop) -> None:
        """Until nothing is left to do. After a stop: until nothing runs, or time is up; raises RunStopped then."""
        entering: Any = None
        while True:
            if not stop.asked:
                self._fill()
            watch(self.backlog)
            if stop.asked and not entering:
                entering = self.aggregator.enter.remote()
            if stop.overdue or not (self._running or (self.backlog.waiting and not stop.asked)):
                break
            if not self._running:
                time.sleep(WAIT_S)
                continue
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_S)
            for reference in done:
                self._receive(reference)
        if entering:
            ray.wait([entering], timeout=stop.left_s)
        self._raise_if(stop)

    def report(self, stop: Stop) -> Board:
        """The comparison, written by the aggregator. Raises RunStopped."""
        reference = self.aggregator.report.remote(datetime.now(UTC).isoformat(timespec="seconds"))
        while not ray.wait([reference], timeout=WAIT_S)[0]:
            self._raise_if(stop)
        board: Board = ray.get(reference)
        return board

    def _raise_if(self, stop: Stop) -> None:
        if stop.asked:
            done = self.backlog.reused + self.backlog.tallies["measure"].done
            raise RunStopped(
                f"stopped by {stop.asked}: {done} of {len(self.plan.units)} units are done and nothing that is "
                "committed is lost; run the same command again to do the rest"
            )

    def _fill(self) -> None:
        window = self.fit.count * self.plan.experiment.resources.in_flight
        while len(self._running) < window and (job := self._next()) is not None:
            self._running[self._submit(job)] = job

    def _next(self) -> Job | None:
        busy = any(job.phase != "measure" for job in self._running.values())
        if not busy and not self._free_nodes():
            return None
        return self.backlog.take(busy)

    def _free_nodes(self) -> list[Node]:
        """Nodes that live and on which nothing is measured; none while the cluster has lost all that fit."""
        taken = {node.node_id for node in self._measured_on.values()}
        try:
            return [node for node in slots(self.plan.experiment.resources).nodes if node.node_id not in taken]
        except InputError:
            return []

    def _submit(self, job: Job) -> Any:
        if job.phase == "aggregate":
            return self.aggregator.close.remote(job, self._attempt_of(job))
        attempt = self._attempt_of(job)
        again = attempt > 1 or self._retries.again(job)
        effort = Effort(attempt, self.fit.cpus, self._left_s(job), self._retries.halvings(job), again)
        # Ray is to retry nothing: which failures are worth it is for `Retries` to say.
        options = {"max_retries": 0, "name": f"{job.phase} {job.unit}"}
        arguments = (job, self._manifests[job.unit.line], self._desk)
        if job.phase != "measure":
            task: Any = execute.options(num_cpus=self.fit.cpus, num_gpus=self.fit.gpus, **options)
            return task.remote(*arguments, effort)
        return self._submit_alone(arguments, effort, options)

    def _submit_alone(self, arguments: tuple[Any, ...], effort: Effort, options: dict[str, Any]) -> Any:
        """A task that has a whole node's CPUs, and one whole GPU where there are any, to itself."""
        node = self._free_nodes()[-1]
        task: Any = execute.options(
            num_cpus=node.cpus,
            num_gpus=1 if self.fit.gpus else 0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
            **options,
        )
        reference = task.remote(*arguments, replace(effort, threads=node.cpus))
        self._measured_on[reference] = node
        return reference

    def _left_s(self, job: Job) -> float | None:
        """Seconds of the unit's time limit that its tasks have not used up."""
        limit = self.plan.experiment.resources.unit_timeout_s
        return None if limit is None else max(limit - self._spent_s[job.unit.unit_id], 1e-3)

    def _receive(self, reference: Any) -> None:
        job = self._running.pop(reference)
        unit_id = job.unit.unit_id
        self._measured_on.pop(reference, None)
        outcome = self._outcome(reference, job)
        self._spent_s[unit_id] += outcome.seconds
        if outcome.failure is None:
            self.backlog.finish(job)
            if job.shard is not None:
                self.aggregator.add.remote(unit_id, job.shard.key)
            elif job.phase == "measure":
                self.aggregator.finished.remote([unit_id])
        elif not self._put_back(job, outcome) and self.backlog.fail(job):
            self.failed[unit_id] = outcome.failure
            self.run.record_failure(unit_id, outcome.failure)
            self.aggregator.drop.remote(unit_id)

    def _put_back(self, job: Job, outcome: Outcome) -> bool:
        """Whether the job is to be done again."""
        if outcome.trouble is None or not self.backlog.is_open(job.unit.unit_id):
            return False
        pause_s = self._retries.pause_s(job, outcome.trouble)
        if pause_s is None:
            return False
        self.backlog.put_back(job, pause_s)
        return True

    def _outcome(self, reference: Any, job: Job) -> Outcome:
        """How the job ended, in a worker that died or on a node that was lost included."""
        try:
            answer: Outcome = ray.get(reference)
        except ray.exceptions.RayError as error:
            if failure := self._time_limit(job):
                return Outcome(0.0, failure)
            return Outcome(0.0, failure_of(job, error, self._attempt_of(job)), trouble_of(error))
        return answer

    def _time_limit(self, job: Job) -> Failure | None:
        """The last words of a worker that ended itself because the unit's time was up."""
        if self.plan.experiment.resources.unit_timeout_s is None:
            return None
        told = self.run.read(job.unit.unit_id, "failure", Failure)
        if told and told.error_type == TimeLimit.__name__ and told.attempt == self._attempt_of(job):
            return told
        return None

    def _attempt_of(self, job: Job) -> int:
        return self._attempts.get(job.unit.unit_id, 0) + 1

    def _attempt(self, unit_id: str) -> int:
        failure = self.run.read(unit_id, "failure", Failure)
        return failure.attempt if failure else 0
