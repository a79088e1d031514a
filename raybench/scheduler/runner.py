"""Run a plan on Ray: submit a bounded window of tasks, hand their commits to the aggregator, keep every failure."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.analysis.board import Board
from raybench.analysis.run_summary import RunSummary
from raybench.config.plan import Plan
from raybench.errors import RunStopped, TimeLimit
from raybench.runs.costs import read_costs
from raybench.runs.forecast import Work, write_forecast
from raybench.runs.ledger import READERS, Ledger
from raybench.runs.records import Failure
from raybench.runs.run import Run
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Cluster, Node
from raybench.scheduler.cluster import alive
from raybench.scheduler.estimate import estimate_schedule, plan_schedule
from raybench.scheduler.gpu_share import GpuShares
from raybench.scheduler.inspector import Inspector
from raybench.scheduler.merging import AggregatorClient
from raybench.scheduler.prefetch import Prefetcher, wanted
from raybench.scheduler.prometheus import watched
from raybench.scheduler.retries import Retries
from raybench.scheduler.stop import Stop, stoppable
from raybench.scheduler.tasks import Attempt, LineContext, Outcome, execute, failure_of, pack_args, retry_reason

WAIT_S = 0.5
ROUND_S = 0.02
PATIENCE_S = 120.0  # with a store in trouble, once it has been found to be there
Watcher = Callable[[Backlog], None]


def run_plan(plan: Plan, watch: Watcher = lambda backlog: None) -> RunSummary:
    """Do what is left of `plan` on the connected cluster, then report.

    watch: called at least every half second with the backlog, to show progress. Failed units become rows of the
    board. Raises StoreError, InputError when not even one task fits the cluster, and RunStopped on SIGTERM or SIGINT.
    """
    with stoppable() as stop:
        plan.store.check()
        plan = plan.with_retry_timeout(PATIENCE_S)
        run = Run(plan.store, plan.experiment.name)
        run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
        cluster = Cluster(plan.experiment.resources, alive)
        ledger = Ledger.read(run)
        entered = ledger.done
        commits = ledger.commits([unit.unit_id for unit in plan.units])
        costs = read_costs(run, ledger, plan.units)
        shares = GpuShares(cluster.fixed_share, plan.experiment.resources.gpu_memory_mb, costs)
        ahead = plan_schedule(plan, commits, costs, cluster.capacity)
        foreseen = estimate_schedule(ahead, cluster.capacity, shares)
        backlog = Backlog(ahead.units, plan.manifests, commits)
        new = [unit_id for unit_id, names in commits.items() if "result" in names and unit_id not in entered]
        dispatch = _Dispatch(plan, run, backlog, commits, (cluster, shares), AggregatorClient(run, cluster, new))
        if foreseen.units:
            write_forecast(run, foreseen)
        dispatch.drain(watched(run.name, len(plan.units), watch), stop)
        if foreseen.units:
            write_forecast(run, replace(foreseen, took=dispatch.took, done=backlog.tallies["measure"].done))
        board = dispatch.report(stop)
    return RunSummary(board, len(plan.units), backlog.reused, dispatch.failed, dispatch.inspector.failed)


@dataclass(frozen=True)
class _Flight:
    """A task that has been submitted. node: that it has to itself."""

    job: Job
    effort: Attempt
    node: Node | None


class _Dispatch:
    """The tasks in flight. Everything that lasts is in the store."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        backlog: Backlog,
        commits: dict[str, set[str]],
        where: tuple[Cluster, GpuShares],
        merging: AggregatorClient,
    ) -> None:
        self.plan, self.run, self.backlog = plan, run, backlog
        self.cluster, self.shares = where
        self.merging = merging
        self.failed: dict[str, Failure] = {}
        self.took = Work()
        self._desks = {line: pack_args(self._desk(line)) for line in plan.manifests}
        self.inspector = Inspector(plan, run, self.cluster, self._desks)
        self.decoder = Prefetcher(wanted(backlog.unbegun, plan.manifests), self.cluster, self._desks)
        if self.inspector.busy:
            backlog.tallies["inspect"] = self.inspector.tally
        failed = [unit_id for unit_id, names in commits.items() if "failure" in names]
        with ThreadPoolExecutor(READERS) as pool:
            self._attempts = dict(zip(failed, pool.map(self._attempt, failed), strict=True))
        self._running: dict[Any, _Flight] = {}
        self._gpus = 0.0
        self._retries = Retries(plan.experiment.resources.retries)
        self._spent_s: defaultdict[str, float] = defaultdict(float)

    def drain(self, watch: Watcher, stop: Stop) -> None:
        """Until nothing is left to do. After a stop: until nothing runs, or time is up; raises RunStopped then."""
        entering: Any = None
        started = time.monotonic()
        while True:
            if not stop.asked:
                self.inspector.fill()
                self._fill()
                self.decoder.fill(self.backlog.begun)
            watch(self.backlog)
            if stop.asked and not entering:
                entering = self.merging.enter()
            running = [*self._running, *self.inspector.running, *self.decoder.running]
            if stop.overdue or not (running or (self.backlog.waiting and not stop.asked)):
                break
            if not running:
                time.sleep(WAIT_S)
                continue
            for reference in ended(running):
                if not (self.inspector.receive(reference) or self.decoder.receive(reference)):
                    self._receive(reference)
            self.merging.tell()
            self.took = replace(self.took, wall_s=time.monotonic() - started)
        self.merging.tell(every_s=0.0)
        if entering:
            ray.wait([entering], timeout=stop.left_s)
        self._raise_if(stop)

    def report(self, stop: Stop) -> Board:
        """The comparison, written by the aggregator. Raises RunStopped."""
        reference = self.merging.report(self.plan)
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
        while self.cluster.has_room(len(self._running), self._gpus) and (found := self._next()) is not None:
            self._submit(*found)

    def _next(self) -> tuple[Job, Node | None] | None:
        """What is to be done next, and the node that it is to have to itself."""
        busy = self.inspector.busy or any(flight.job.phase != "measure" for flight in self._running.values())
        free = [] if busy else self._free_nodes()
        job = self.backlog.take(busy=not free)
        if job is None:
            return None
        return job, free[-1] if job.phase == "measure" else None

    def _free_nodes(self) -> list[Node]:
        """Nodes that live and on which nothing is measured; none while the cluster has lost all that fit."""
        taken = {flight.node.node_id for flight in self._running.values() if flight.node}
        return [node for node in self.cluster.capacity.nodes if node.node_id not in taken]

    def _submit(self, job: Job, node: Node | None) -> None:
        desk = self._desks[job.unit.line]
        if job.phase == "aggregate":
            effort = Attempt(self._attempt_of(job), 0)
            reference = self.merging.close(job.unit.unit_id, pack_args((job, effort)), desk)
        else:
            effort = self._effort(job, node)
            name, node_id = f"{job.phase} {job.unit.model}", node.node_id if node else None
            reference = _task(name, effort.threads, effort.gpus, node_id).remote(pack_args((job, effort)), desk)
        self._running[reference] = _Flight(job, effort, node)
        self._gpus += effort.gpus

    def _effort(self, job: Job, node: Node | None) -> Attempt:
        """node: that the task has to itself, with one whole GPU where there are any."""
        attempt, slots = self._attempt_of(job), self.cluster.capacity
        return Attempt(
            attempt=attempt,
            threads=node.cpus if node else slots.cpus,
            limit_s=self._left_s(job),
            halvings=self._retries.halvings(job),
            again=attempt > 1 or self._retries.again(job),
            gpus=float(slots.gpus > 0) if node else self.shares.of(job.unit, job.phase),
        )

    def _left_s(self, job: Job) -> float | None:
        """Seconds of the unit's time limit that its tasks have not used up."""
        limit = self.plan.experiment.resources.unit_timeout_s
        return None if limit is None else max(limit - self._spent_s[job.unit.unit_id], 1e-3)

    def _receive(self, reference: Any) -> None:
        flight = self._running.pop(reference)
        job, unit_id = flight.job, flight.job.unit.unit_id
        outcome = self._outcome(reference, job)
        self._count(flight, outcome)
        if outcome.failure is None:
            self.backlog.finish(job)
            if job.shard is not None and self.backlog.has_unscored(unit_id):
                self.merging.add(unit_id, job.shard.key)
            elif job.phase == "aggregate":
                self.merging.closed(unit_id)
            elif job.phase == "measure":
                del self._spent_s[unit_id]
                self.merging.finished(unit_id)
        elif not self._put_back(job, outcome) and self.backlog.fail(job):
            self.failed[unit_id] = replace(outcome.failure, traceback="")
            self.run.record_failure(unit_id, outcome.failure)
            self.merging.drop(unit_id)

    def _desk(self, line: str) -> LineContext:
        plan, device = self.plan, self.cluster.capacity.device
        measure_s, own = plan.experiment.resources.measure_s, line not in plan.elsewhere
        helped = bool(self.cluster.capacity.cpu_nodes)
        lines, manifest = plan.lines_of(line), plan.manifests[line]
        return LineContext(self.run, lines, manifest, device, plan.weights, measure_s, own, helped)

    def _count(self, flight: _Flight, outcome: Outcome) -> None:
        """What the task took, and what that says about others."""
        seconds, effort, took = outcome.seconds, flight.effort, self.took
        self._gpus -= effort.gpus
        self._spent_s[flight.job.unit.unit_id] += seconds
        cpu_s, gpu_s = took.cpu_s + seconds * effort.threads, took.gpu_s + seconds * effort.gpus
        self.took = replace(took, cpu_s=cpu_s, gpu_s=gpu_s)
        if outcome.spent:
            self.shares.saw(flight.job.unit, flight.job.phase, outcome.spent)

    def _put_back(self, job: Job, outcome: Outcome) -> bool:
        """Whether the job is to be done again."""
        if outcome.trouble == "worker_died":
            self.cluster.look_again()
        if outcome.trouble == "shared_oom":
            self.shares.out_of_memory_when_shared(job.unit, job.phase)
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
            return Outcome(0.0, failure_of(job, error, self._attempt_of(job)), retry_reason(error))
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


def ended(running: list[Any]) -> list[Any]:
    """Those of the tasks that have ended, all together a moment after the first: tasks that wait for a slot have been
    submitted already, so that nothing waits for the driver, and each round costs it some milliseconds."""
    first, _ = ray.wait(running, num_returns=1, timeout=WAIT_S)
    if not first or len(running) == 1:
        return first
    time.sleep(ROUND_S)
    found, _ = ray.wait(running, num_returns=len(running), timeout=0)
    return found


@functools.lru_cache(maxsize=1024)
def _task(name: str, threads: int, gpus: float, node_id: str | None) -> Any:
    """`execute` as Ray is to run it; to make that anew for each task would take the driver a third of a millisecond.

    Ray is to retry nothing: which failures are worth it is for `Retries` to say. It keeps metrics of every name that it
    has met, for good, so the unit is not part of it. Tasks are spread: where they are packed, the driver is told again
    and again of a node whose slot is taken already, and asks anew, at up to a third of a core."""
    return execute.options(
        num_cpus=threads,
        num_gpus=gpus,
        max_retries=0,
        name=name,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "SPREAD",
    )
