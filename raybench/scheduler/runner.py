"""Run a plan on Ray: submit a bounded window of tasks, have their commits aggregated, keep every failure."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.analysis.board import Board
from raybench.analysis.cost_report import duration
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.detectors import registry
from raybench.errors import RunStopped, SystematicFailure
from raybench.report.console import MESSAGE_CHARS, RunSummary
from raybench.runs.cost_model import Work, write_forecast
from raybench.runs.costs import read_costs
from raybench.runs.ledger import READERS, Ledger
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.scheduler import gpus
from raybench.scheduler.admission import Admission, admission
from raybench.scheduler.aggregator import Aggregator, build_report
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Cluster, Node
from raybench.scheduler.cluster import alive
from raybench.scheduler.estimate import estimate_schedule, plan_schedule, step_seconds
from raybench.scheduler.gpu_share import GpuShares
from raybench.scheduler.health import ALIKE, Breaker, NodeHealth
from raybench.scheduler.inspector import Inspector
from raybench.scheduler.prefetch import Prefetcher, wanted
from raybench.scheduler.preflight import check_backbones, leave_out_unusable
from raybench.scheduler.prometheus import watched
from raybench.scheduler.retries import Retries, RetryReason
from raybench.scheduler.stop import Stop, stoppable
from raybench.scheduler.tasks import Attempt, LineContext, Outcome, execute, only_off, pack_args, retry_reason
from raybench.scheduler.window import WAIT_S, Window, outcome_of, wait

PAGE_UNITS = 256  # in a page of the ledger
PAGE_S = 30.0  # between pages that are not full
PATIENCE_S = 120.0  # for which calls retry a failing store, once it has answered
IMAGES_PER_GPU_JOB = 512  # so that a GPU goes on while a shard is written
MAX_FAULTS = 2  # of the GPUs of a node, found by different processes, before it gets no more tasks
QUIET_S = 600.0  # without the end of a task, before it is said what runs
FEW_RUNNING = 4  # tasks that are named then
Watcher = Callable[[Backlog], None]


def run_plan(
    plan: Plan,
    watch: Watcher = lambda backlog: None,
    tell: Callable[[str], None] = lambda text: None,
    retry_failed: bool = False,
) -> RunSummary:
    """Do the rest of `plan` on the connected cluster, then report. Failed units become rows of the board.

    Args:
        plan: the units of an experiment.
        watch: called at least every half second with the backlog, to show progress.
        tell: called with a sentence when a unit fails, a node comes or goes, or no task has ended for long.
        retry_failed: try units again that failed in as many commands as the experiment allows.

    Raises:
        StoreError: the store cannot be used.
        InputError: not even one task fits the cluster.
        GpuUnusable: no node has a GPU that works. Committed work is kept.
        SystematicFailure: task after task fails in the same way. Committed work is kept.
        RunStopped: on SIGTERM or SIGINT. Committed work is kept.
    """
    with stoppable() as stop:
        plan.store.check()
        plan = plan.with_retry_timeout(PATIENCE_S)
        run = RunStore.of(plan)
        run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
        cluster = Cluster(plan.experiment.resources, alive)
        ledger = Ledger.read(run)
        entered = ledger.done
        commits = ledger.commits(plan.units)
        costs = read_costs(run, ledger, plan.units)
        shares = GpuShares(cluster.fixed_share, plan.experiment.resources.gpu_memory_mb, costs)
        schedule = plan_schedule(plan, commits, costs, cluster.capacity)
        forecast = estimate_schedule(schedule, cluster.capacity, shares)
        per_job = 0 if cluster.capacity.device == "cpu" else IMAGES_PER_GPU_JOB
        attempts, most = _attempts(run, commits), plan.experiment.resources.attempts
        exhausted = set() if retry_failed else {unit_id for unit_id, count in attempts.items() if count >= most}
        gate = admission(plan, run, schedule, cluster.capacity, shares.of, exhausted)
        backlog = Backlog(schedule.units, plan.manifests, commits, per_job, gate.answer)
        backlog.step_s = step_seconds(schedule, forecast, backlog)
        if cluster.capacity.device != "cpu" and any(registry.uses_torch(unit.detector) for unit in schedule.units):
            leave_out_unusable(cluster)
        check_backbones((unit for unit in schedule.units if "finished" not in commits.get(unit.unit_id, ())), plan)
        dispatch = _Dispatch(plan, run, backlog, commits, cluster, shares, gate, tell, attempts)
        done = (unit_id for unit_id, names in commits.items() if "finished" in names)
        dispatch.finished += [unit_id for unit_id in done if unit_id not in entered]
        if forecast.units:
            write_forecast(run, forecast)
        dispatch.drain(watched(run.name, len(plan.units), watch), stop)
        if forecast.units:
            done_now = backlog.tallies["measure"].done
            write_forecast(run, replace(forecast, took=dispatch.took, done=done_now, left_out=backlog.left_out))
        board = dispatch.report(stop)
    unusable = tuple(cluster.left_out.values())
    return RunSummary(
        board, len(plan.units), backlog.reused, dispatch.failed, dispatch.inspector.failed, unusable, backlog.left_out
    )


@dataclass(frozen=True)
class _Flight:
    """A task that has been submitted."""

    job: Job
    """The task's job."""
    attempt: Attempt
    """The resources that it has."""
    node: Node | None
    """The node on which it times a detector, if it does."""
    avoided: frozenset[str]
    """Nodes on which it must not run while another one is alive."""
    since: float = field(default_factory=time.monotonic)
    """When it was submitted, by the monotonic clock."""


class _Dispatch:
    """The tasks in flight and the driver's state. All results are in the store."""

    def __init__(
        self,
        plan: Plan,
        run: RunStore,
        backlog: Backlog,
        commits: dict[str, set[str]],
        cluster: Cluster,
        shares: GpuShares,
        gate: Admission,
        tell: Callable[[str], None],
        attempts: Mapping[str, int],
    ) -> None:
        self._tell = tell
        self._nodes = cluster.node_ids
        self._quiet_since = time.monotonic()
        self.plan, self.run, self.backlog = plan, run, backlog
        self.cluster, self.shares, self.gate = cluster, shares, gate
        self.aggregator = aggregator_on(self.cluster.capacity.cpu_node(0) or self.cluster.capacity.nodes[-1])
        self.finished: list[str] = []
        """IDs of finished units that are not in the ledger."""
        self._appended_at = time.monotonic()
        self._merges = itertools.count(1)
        self.failed: dict[str, Failure] = {}
        self.took = Work()
        self._contexts = {line: pack_args(self._context(line)) for line in plan.manifests}
        self.inspector = Inspector(plan, run, self.cluster, self._contexts)
        self.prefetcher = Prefetcher(wanted(backlog.unbegun, plan.manifests, commits), self.cluster, self._contexts)
        if self.inspector.busy:
            backlog.tallies["inspect"] = self.inspector.tally
        self._failed_attempts = attempts
        self._running = Window[_Flight]()
        self._gpus = 0.0
        self._retries = Retries(plan.experiment.resources.retries)
        self._faults: Counter[str] = Counter()
        self._health = NodeHealth()
        self._breaker = Breaker(len({unit.model for unit in plan.units}))
        self._spent_s: defaultdict[str, float] = defaultdict(float)

    def drain(self, watch: Watcher, stop: Stop) -> None:
        """Submit and receive tasks until nothing is left; after a stop, until nothing runs or time is up.

        Raises RunStopped after a stop.
        """
        appended: Any = None
        started = time.monotonic()
        while True:
            if not stop.asked:
                self.inspector.fill()
                self._fill()
                self.prefetcher.fill(self.backlog.begun)
            watch(self.backlog)
            if stop.asked and not appended:
                appended = self._append_to_ledger()
            running = self._running or self.inspector.running or self.prefetcher.running
            if stop.overdue or not (running or (self.backlog.waiting and not stop.asked)):
                break
            if not running:
                time.sleep(WAIT_S)
                continue
            ended = wait(self._running, self.inspector.running, self.prefetcher.running)
            self.inspector.receive(ended)
            self.prefetcher.receive(ended)
            for flight, reference in self._running.take(ended):
                self._quiet_since = time.monotonic()
                self._receive(flight, reference)
            self._recall_stranded()
            self._tell_of_nodes()
            self._tell_if_quiet()
            if len(self.finished) >= PAGE_UNITS or (self.finished and time.monotonic() - self._appended_at > PAGE_S):
                self._append_to_ledger()
            self.took = replace(self.took, wall_s=time.monotonic() - started)
        if appended:
            ray.wait([appended, self._append_to_ledger()], num_returns=2, timeout=stop.left_s)
        self._raise_if(stop)

    def report(self, stop: Stop) -> Board:
        """Have the aggregator write the report; return its board. Raises RunStopped."""
        self._append_to_ledger()
        created = datetime.now(UTC).isoformat(timespec="seconds")
        reference = self.aggregator.report.remote(self.run, self.plan, created)
        while not ray.wait([reference], timeout=WAIT_S)[0]:
            self._raise_if(stop)
        try:
            board: Board = ray.get(reference)
        except RayActorError:
            _start_aggregator.cache_clear()  # the next run of this driver must not get the one that is lost
            raise
        except RayTaskError as error:
            if retry_reason(error.cause) != "node":
                raise
            return build_report(self.run, self.plan, created)  # the actor's node may lack what this one has
        return board

    def _append_to_ledger(self) -> Any:
        """Have the finished units entered in the ledger; return Ray's reference. Each call takes the driver 1–2 ms."""
        page, self.finished, self._appended_at = self.finished, [], time.monotonic()
        return self.aggregator.append_to_ledger.remote(self.run, page)

    def _raise_if(self, stop: Stop) -> None:
        if stop.asked:
            done = self.backlog.reused + self.backlog.tallies["measure"].done
            raise RunStopped(
                f"stopped by {stop.asked}: {done} of {len(self.plan.units)} units are done and nothing that is "
                "committed is lost; run the same command again to do the rest"
            )

    def _fill(self) -> None:
        while self.cluster.has_room(len(self._running), self._gpus) and (task := self._next()) is not None:
            self._submit(*task)

    def _next(self) -> tuple[Job, Node | None] | None:
        """Take the next job, for timing with the node to time on, where nothing else runs."""
        busy = self.inspector.busy or any(flight.job.phase != "measure" for flight in self._running)
        free = [] if busy else self._nodes_to_time_on()
        job = self.backlog.take(busy=not free)
        if job is None:
            return None
        if job.phase != "measure":
            return job, None
        avoided = self._avoided(job)
        return job, ([node for node in free if node.node_id not in avoided] or free)[-1]

    def _nodes_to_time_on(self) -> list[Node]:
        """Living nodes that can time one detector more, the emptiest last."""
        capacity, timed = self.cluster.capacity, Counter(flight.node.node_id for flight in self._running if flight.node)
        free = [node for node in capacity.nodes if timed[node.node_id] < capacity.timings(node)]
        return sorted(free, key=lambda node: -timed[node.node_id])

    def _submit(self, job: Job, node: Node | None) -> None:
        """node: on which it times a detector."""
        merging = job.phase == "aggregate"
        place = self.cluster.capacity.cpu_node(next(self._merges)) if merging else node
        avoided = self._avoided(job)
        if merging and place and place.node_id in avoided:
            place = None
        attempt = self._attempt(job, place)
        name, node_id = f"{job.phase} {job.unit.model}", place.node_id if place else None
        excluded = avoided | frozenset(self.cluster.left_out)
        task = _task(name, attempt.threads, attempt.gpus, node_id, merging, excluded)
        context = self._fit_context(job.unit) if job.phase == "fit" else self._contexts[job.unit.line]
        reference = task.remote(pack_args((job, attempt)), context)
        self._running.submit(_Flight(job, attempt, node, frozenset() if node_id else avoided), reference)
        self._gpus += attempt.gpus

    def _avoided(self, job: Job) -> frozenset[str]:
        """IDs of the nodes on which not to try `job`."""
        if not self._health.has_failures:
            return frozenset()
        return frozenset(self._health.avoided(job, self._nodes_for(job)))

    def _nodes_for(self, job: Job) -> set[str]:
        """IDs of the living nodes that can run `job`."""
        capacity = self.cluster.capacity
        needs_gpu = job.phase != "aggregate" and not job.judges
        helpers = [node for node in capacity.cpu_nodes if not needs_gpu and node.cpus >= capacity.cpus]
        return {node.node_id for node in (*capacity.nodes, *helpers)}

    def _recall_stranded(self) -> None:
        """Queue tasks again that wait for nodes which are gone: a node that has failed them is better than none."""

        def is_stranded(flight: _Flight) -> bool:
            return bool(flight.avoided) and flight.avoided >= self._nodes_for(flight.job)

        for flight, reference in self._running.take_if(is_stranded):
            ray.cancel(reference, force=True)
            self._gpus -= flight.attempt.gpus
            if self.backlog.is_open(flight.job.unit.unit_id):
                self.backlog.put_back(flight.job, 0.0)

    def _tell_of_nodes(self) -> None:
        before, self._nodes = self._nodes, self.cluster.node_ids
        gone, left_out = before - self._nodes, self.cluster.left_out
        for node_id in sorted(gone & left_out.keys()):
            self._tell(f"left out: {left_out[node_id]}")
        for what, changed in (("lost", gone - left_out.keys()), ("gained", self._nodes - before)):
            if changed:
                ids = ", ".join(sorted(node_id[:8] for node_id in changed))
                self._tell(f"nodes {what}: {ids}; {len(self._nodes)} take tasks now")

    def _tell_if_quiet(self) -> None:
        """Say what runs if no task has ended for long, and again after as long."""
        now = time.monotonic()
        if now - self._quiet_since < QUIET_S:
            return
        self._quiet_since = now
        oldest = sorted(self._running, key=lambda flight: flight.since)
        named = [f"{each.job.phase} of {each.job.unit} ({duration(now - each.since)})" for each in oldest[:FEW_RUNNING]]
        more = f" and {len(oldest) - FEW_RUNNING} more" if len(oldest) > FEW_RUNNING else ""
        self._tell(f"no task has ended for {duration(QUIET_S)}; submitted: {', '.join(named)}{more}")

    def _attempt(self, job: Job, node: Node | None) -> Attempt:
        """node: of timing, which has a GPU of it with its share of the cores, or all its cores; of merging, which
        prefers it."""
        number, capacity = self._number(job), self.cluster.capacity
        again = number > 1 or self._retries.again(job) or bool(self._health.failed_on(job))
        if job.phase == "aggregate":  # fits a slot, so that no more workers run than slots; nothing limits its time
            return Attempt(number, min(capacity.cpus, node.cpus) if node else capacity.cpus, again=again)
        return Attempt(
            number=number,
            threads=node.cpus // capacity.timings(node) if node else capacity.cpus,
            limit_s=self._left_s(job),
            halvings=self._retries.halvings(job),
            again=again,
            gpus=float(capacity.gpus > 0) if node else 0.0 if job.judges else self.shares.of(job.unit, job.phase),
        )

    def _left_s(self, job: Job) -> float | None:
        """Seconds of the unit's time limit that its tasks have not used up."""
        limit = self.plan.experiment.resources.unit_timeout_s
        return None if limit is None else max(limit - self._spent_s[job.unit.unit_id], 1e-3)

    def _receive(self, flight: _Flight, reference: Any) -> None:
        job, unit_id = flight.job, flight.job.unit.unit_id
        recorded = functools.partial(self._recorded, unit_id)
        outcome = outcome_of(reference, job.phase, self._number(job), recorded)
        self._count(flight, outcome)
        if outcome.failure is None:
            self.backlog.finish(job)
            self._breaker.succeeded()
            for node_id, message in self._health.finished(job, outcome.node_id).items():
                self.cluster.leave_out(node_id, f"node {node_id} fails what others do: {message}")
            if job.phase == "measure":
                del self._spent_s[unit_id]
                self.finished.append(unit_id)
                self.gate.ended(job.unit)
            return
        put_back, reason = self._put_back(job, outcome), self._reason(outcome)
        if not put_back or reason == "node":
            self._breaker.failed(job.unit.model, outcome.node_id, outcome.failure)
        if not put_back:
            self._health.failed_by_itself(job, outcome.node_id)
            for unit in self.backlog.fail(job):
                self._tell(f"failed: {unit}: {outcome.failure.error_type}: {outcome.failure.message[:MESSAGE_CHARS]}")
                self.failed[unit.unit_id] = replace(outcome.failure, traceback="")
                self.run.record_failure(unit.unit_id, outcome.failure)
                self.gate.ended(unit)
        self._raise_if_all_fails(outcome.failure)

    def _raise_if_all_fails(self, failure: Failure) -> None:
        if self._breaker.is_open(len(self.cluster.capacity.nodes)):
            raise SystematicFailure(
                f"the last {ALIKE} tasks failed in the same way, so the run stopped. What is committed is kept; the "
                f"same command does the rest once this is fixed: {failure.error_type}: {failure.message}"
            )

    def _context(self, line: str) -> LineContext:
        plan, capacity = self.plan, self.cluster.capacity
        return LineContext(
            run=self.run,
            lines=plan.lines_of(line),
            manifest=plan.manifests[line],
            device=capacity.device,
            weights=plan.weights,
            measure_s=plan.experiment.resources.measure_s,
            writable=plan.is_writable(line),
            helped=bool(capacity.cpu_nodes),
        )

    def _fit_context(self, unit: Unit) -> Any:
        """Pack the context of a task that fits a detector on several lines."""
        lines = tuple(self.plan.line(each.line) for each in unit.together)
        return pack_args(replace(self._context(unit.line), together=lines))

    def _count(self, flight: _Flight, outcome: Outcome) -> None:
        """Add up what the task took, and learn the GPU memory of its kind."""
        seconds, attempt, took = outcome.seconds, flight.attempt, self.took
        self._gpus -= attempt.gpus
        if flight.job.phase != "fit":  # it is not the unit's alone
            self._spent_s[flight.job.unit.unit_id] += seconds
        cpu_s, gpu_s = seconds * attempt.threads, seconds * attempt.gpus
        self.took = replace(took, cpu_s=took.cpu_s + cpu_s, gpu_s=took.gpu_s + gpu_s)
        self.gate.charge(flight.job.unit, cpu_s, gpu_s)
        if outcome.usage:
            self.shares.saw(flight.job.unit, flight.job.phase, outcome.usage)

    def _put_back(self, job: Job, outcome: Outcome) -> bool:
        """Queue a failed job again, unless it or its unit has failed for good."""
        reason = self._reason(outcome)
        if reason in gpus.ENDING:
            self._retries.expect_end()
        if reason == "gpu_unusable" and outcome.failure:
            self._note_fault(outcome.node_id, outcome.failure.message)
            reason = "not_begun"
        if reason in {"worker_died", "node_lost"}:
            self.cluster.look_again()
        if reason == "shared_oom":
            self.shares.out_of_memory_when_shared(job.unit, job.phase)
        if reason is None or not self.backlog.is_open(job.unit.unit_id):
            return False
        if reason in {"node", "infrastructure"} and outcome.failure:
            self._health.failed(job, outcome.node_id, outcome.failure.message)
        if reason == "node":
            pause_s = 0.0 if self._health.may_try_elsewhere(job, self._nodes_for(job)) else None
        else:
            pause_s = self._retries.pause_s(job, reason)
        if pause_s is None:
            return False
        self.backlog.put_back(job, pause_s)
        return True

    def _reason(self, outcome: Outcome) -> RetryReason | None:
        """Why to try again. Where a node fails one model after the other, that is not the models' fault."""
        if outcome.retry_reason is None and self._health.is_suspicious(outcome.node_id):
            return "node"
        return outcome.retry_reason

    def _note_fault(self, node_id: str, fault: str) -> None:
        """Leave out a node whose GPUs fail again and again. Raises GpuUnusable when no other is there."""
        self._faults[node_id] += 1
        if self._faults[node_id] >= MAX_FAULTS:
            self.cluster.leave_out(node_id, fault)
            self.cluster.raise_if_all_left_out()

    def _recorded(self, unit_id: str) -> Failure | None:
        """The failure in the store; None without a time limit, so that a lost worker costs no request then."""
        if self.plan.experiment.resources.unit_timeout_s is None:
            return None
        return self.run.failure(unit_id)

    def _number(self, job: Job) -> int:
        """The attempt's number: one more than of the unit's last failure in an earlier run."""
        return self._failed_attempts.get(job.unit.unit_id, 0) + 1


def _attempts(run: RunStore, commits: Mapping[str, set[str]]) -> dict[str, int]:
    """Return in how many commands each unit has failed, of those that are not finished."""
    failed = [unit_id for unit_id, names in commits.items() if "failure" in names and "finished" not in names]
    with ThreadPoolExecutor(READERS) as pool:
        failures = pool.map(run.failure, failed)
        return {unit_id: failure.attempt for unit_id, failure in zip(failed, failures, strict=True) if failure}


@functools.lru_cache(maxsize=1024)
def _task(name: str, threads: int, gpus: float, node_id: str | None, soft: bool, excluded: frozenset[str]) -> Any:
    """Return `execute` with its options, cached because making it takes the driver a third of a millisecond.

    Ray retries nothing; `Retries` decides. Ray keeps metrics of every name for good, so the unit's ID is not part of
    the name. Tasks are spread: if they were packed, Ray would offer the driver a node whose slot is already taken, and
    the driver would ask again and again, at up to a third of a core.

    Args:
        name: shown in Ray's dashboard and as the process title.
        threads: CPU cores.
        gpus: share of a GPU.
        node_id: the node to run on; None: any.
        soft: whether another node will do once that one is lost.
        excluded: nodes that must not run it; `node_id` comes before.
    """
    return execute.options(
        label_selector=None if node_id else only_off(excluded),
        num_cpus=threads,
        num_gpus=gpus,
        max_retries=0,
        name=name,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft) if node_id else "SPREAD",
    )


def aggregator_on(node: Node) -> Any:
    """Return the driver's aggregation actor on `node`; elsewhere once that is lost.

    It asks for no CPU, so that Ray left to itself would start it on a head that has none to spare.
    """
    driver = ray.get_runtime_context()
    return _start_aggregator(driver.get_node_id(), driver.get_job_id(), node.node_id)


@functools.lru_cache(maxsize=1)
def _start_aggregator(raylet: str, job: str, node_id: str) -> Any:
    """Start the actor. raylet, job: of the driver, so that another connection to Ray gets another actor."""
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
    return Aggregator.options(scheduling_strategy=strategy).remote()  # type: ignore[attr-defined]
