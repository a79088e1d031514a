"""Inspect the data of lines beside a run's training: a CPU task for each line without an inspection.

The same task learns how the line's types of anomalies look, for the report. An inspection changes no result of a unit,
and a line whose inspection fails is compared all the same. But speed is measured and the report is built after all
inspections, because flags must not depend on which task was first.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import ray

from raybench.analysis.anomaly_types.stored import learn_in_run
from raybench.config.plan import Plan
from raybench.data.inspection.inspection import Inspection
from raybench.errors import TimeLimit
from raybench.runs.records import Failure
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import PhaseCount
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.tasks import (
    REUSE_WORKER,
    TRACEBACK_CHARS,
    LineContext,
    Outcome,
    failure_of,
    only_off,
    retry_reason,
    unpack_args,
)
from raybench.scheduler.timeout import time_limit
from raybench.scheduler.window import Window, outcome_of
from raybench.worker import memory
from raybench.worker.inspect import failed_inspection, inspect_in_run, inspections_in, record_failed_inspection


@ray.remote(max_calls=REUSE_WORKER)
def inspect_task(context_args: bytes, threads: int, attempt: int, limit_s: float | None, signals: bool) -> Outcome:
    """Inspect a line and store the result; an exception becomes a Failure.

    Args:
        context_args: LineContext, packed.
        threads: CPU cores of the task.
        attempt: its number.
        limit_s: seconds after which the task is ended; None: never.
        signals: whether to learn types of anomalies too.
    """
    started = time.perf_counter()
    memory.tune_malloc()
    context: LineContext = unpack_args(context_args)
    run, lines, manifest = context.run, context.lines, context.manifest

    def on_timeout(stack: str) -> None:
        message = f"no end after {limit_s:g} s, resources.unit_timeout_s; it hung at the traceback"
        failure = Failure("inspect", TimeLimit.__name__, message, stack[-TRACEBACK_CHARS:], attempt)
        record_failed_inspection(run, manifest.line, failure)

    try:
        with time_limit(limit_s, on_timeout):
            if signals:
                learn_in_run(run, lines, manifest, context.writable)
            inspect_in_run(run, lines, manifest, context.writable, threads)
    except Exception as error:
        return Outcome(time.perf_counter() - started, failure_of("inspect", error, attempt), retry_reason(error))
    finally:
        memory.trim()
    return Outcome(time.perf_counter() - started)


class Inspector:
    """The inspections that are left to do."""

    def __init__(self, plan: Plan, run: RunStore, cluster: Cluster, contexts: Mapping[str, Any]) -> None:
        """contexts: a packed LineContext for each line."""
        self._run, self._cluster, self._contexts = run, cluster, contexts
        self._retries, self._limit_s = plan.experiment.resources.retries, plan.experiment.resources.unit_timeout_s
        self._signals = plan.experiment.annotation.signals > 0
        known = inspections_in(run, plan) if plan.experiment.inspect else {}
        self._waiting = deque(line for line, result in known.items() if not isinstance(result, Inspection))
        self._attempts = {line: result.attempt for line, result in known.items() if isinstance(result, Failure)}
        self.running = Window[str]()
        """The lines in flight."""
        self._tries: Counter[str] = Counter()
        self.failed: dict[str, Failure] = {}
        """Inspections given up in this run, by line."""
        self.tally = PhaseCount(total=len(self._waiting))
        """Progress, in lines."""

    @property
    def busy(self) -> bool:
        """Whether an inspection is left or in flight."""
        return bool(self._waiting or self.running)

    def fill(self) -> None:
        """Submit inspections on half of the slots at most, so that training has the others from the start."""
        while self._waiting and len(self.running) < max(self._cluster.capacity.cpu_slots // 2, 1):
            line = self._waiting.popleft()
            threads = self._cluster.capacity.cpus
            task = inspect_task.options(
                num_cpus=threads,
                max_retries=0,
                name="inspect",
                scheduling_strategy="SPREAD",
                label_selector=only_off(self._cluster.left_out),
            )
            arguments = (self._contexts[line], threads, self._attempt(line), self._limit_s, self._signals)
            self.running.submit(line, task.remote(*arguments))

    def receive(self, ended: Iterable[Any]) -> None:
        """Take the outcomes of the inspections among the tasks that have ended."""
        for line, reference in self.running.take(ended):
            outcome = outcome_of(reference, "inspect", self._attempt(line), partial(self._recorded, line))
            if outcome.failure is None:
                self.tally.done += 1
            elif outcome.retry_reason and self._tries[line] < self._retries:
                self._tries[line] += 1
                self._waiting.append(line)
            else:
                self.tally.failed += 1
                record_failed_inspection(self._run, line, outcome.failure)
                self.failed[line] = outcome.failure

    def _recorded(self, line: str) -> Failure | None:
        return failed_inspection(self._run, line) if self._limit_s else None

    def _attempt(self, line: str) -> int:
        return self._attempts.get(line, 0) + 1
