"""Data inspections beside a run's training: a CPU task for each line that has none, a bounded window of them. The same
task learns what the line's kinds of anomalies look like, for the report.

What is found changes no number of a unit, and a line whose inspection fails is compared all the same. But speed is
measured, and the report is built, when all lines have been looked at: flags must not depend on who was first.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import ray

from raybench.analysis.anomaly_types.stored import learn_in_run
from raybench.config.plan import Plan
from raybench.data.inspection.inspection import Inspection
from raybench.errors import TimeLimit
from raybench.runs.records import Failure
from raybench.runs.run import Run
from raybench.scheduler.backlog import PhaseCount
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.tasks import (
    REUSE_WORKER,
    TRACEBACK_CHARS,
    LineContext,
    Outcome,
    failure_in,
    retry_reason,
    unpack_args,
)
from raybench.scheduler.timeout import time_limit
from raybench.worker import memory
from raybench.worker.inspect import failed_inspection, inspect_in_run, inspections_in, record_failed_inspection


@ray.remote(max_calls=REUSE_WORKER)
def inspect_task(at: bytes, threads: int, attempt: int, limit_s: float | None, signals: bool) -> Outcome:
    """Inspect a line and keep what is found; an exception becomes a Failure.

    at: LineContext, packed. signals: learn for them, too.
    """
    started = time.perf_counter()
    desk: LineContext = unpack_args(at)
    manifest = desk.manifest

    def time_is_up(stack: str) -> None:
        message = f"no end after {limit_s:g} s, resources.unit_timeout_s; it hung at the traceback"
        failure = Failure("inspect", TimeLimit.__name__, message, stack[-TRACEBACK_CHARS:], attempt)
        record_failed_inspection(desk.run, manifest.line, failure)

    try:
        with time_limit(limit_s, time_is_up):
            if signals:
                learn_in_run(desk.run, desk.lines, manifest, desk.own)
            inspect_in_run(desk.run, desk.lines, manifest, desk.own, threads)
    except Exception as error:
        return Outcome(time.perf_counter() - started, failure_in("inspect", error, attempt), retry_reason(error))
    finally:
        memory.trim()
    return Outcome(time.perf_counter() - started)


class Inspector:
    """The inspections that are left to do. failed: given up in this run, by line. tally: progress, in lines."""

    def __init__(self, plan: Plan, run: Run, cluster: Cluster, desks: Mapping[str, Any]) -> None:
        """desks: by line, as arguments of tasks."""
        self._run, self._fleet, self._desks = run, cluster, desks
        self._retries, self._limit_s = plan.experiment.resources.retries, plan.experiment.resources.unit_timeout_s
        self._signals = plan.experiment.annotation.signals > 0
        known = inspections_in(run, plan) if plan.experiment.inspect else {}
        self._waiting = deque(line for line, found in known.items() if not isinstance(found, Inspection))
        self._attempts = {line: found.attempt for line, found in known.items() if isinstance(found, Failure)}
        self._running: dict[Any, str] = {}
        self._tries: Counter[str] = Counter()
        self.failed: dict[str, Failure] = {}
        self.tally = PhaseCount(total=len(self._waiting))

    @property
    def running(self) -> list[Any]:
        """References to what is in flight."""
        return list(self._running)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def fill(self) -> None:
        """Half of the slots at most: training has the others from the start."""
        while self._waiting and len(self._running) < max(self._fleet.capacity.cpu_slots // 2, 1):
            line = self._waiting.popleft()
            threads = self._fleet.capacity.cpus
            task = inspect_task.options(num_cpus=threads, max_retries=0, name="inspect", scheduling_strategy="SPREAD")
            arguments = (self._desks[line], threads, self._attempt(line), self._limit_s, self._signals)
            self._running[task.remote(*arguments)] = line

    def receive(self, reference: Any) -> bool:
        """Take the outcome of a task that has ended; False when it is none of these."""
        line = self._running.pop(reference, None)
        if line is None:
            return False
        outcome = self._outcome(reference, line)
        if outcome.failure is None:
            self.tally.done += 1
        elif outcome.trouble and self._tries[line] < self._retries:
            self._tries[line] += 1
            self._waiting.append(line)
        else:
            self.tally.failed += 1
            record_failed_inspection(self._run, line, outcome.failure)
            self.failed[line] = outcome.failure
        return True

    def _outcome(self, reference: Any, line: str) -> Outcome:
        try:
            answer: Outcome = ray.get(reference)
        except ray.exceptions.RayError as error:
            told = failed_inspection(self._run, line) if self._limit_s else None
            if told and (told.error_type, told.attempt) == (TimeLimit.__name__, self._attempt(line)):
                return Outcome(0.0, told)
            return Outcome(0.0, failure_in("inspect", error, self._attempt(line)), retry_reason(error))
        return answer

    def _attempt(self, line: str) -> int:
        return self._attempts.get(line, 0) + 1
