"""The aggregation actors: they merge the partial metrics of scored shards; the root builds the report. On a small
cluster the root does all: see `mergers`.

They hold nothing that is not in the store: killed at any time, they come back empty, and what they lack is merged when
a unit is closed. A unit's state is dropped then, so memory depends on the units under way, not on the length of the
run. Finished units the root enters in the ledger, some at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from raybench.analysis.board import Board
from raybench.config.plan import Plan
from raybench.report import cache
from raybench.report.publish import publish
from raybench.runs.ledger import Ledger, append_to_ledger
from raybench.runs.records import ScoreRecord
from raybench.runs.run import Run, score_name
from raybench.scheduler.prefetch import clear
from raybench.scheduler.tasks import LineContext, Outcome, failure_of, retry_reason, unpack_args
from raybench.worker.merge import Partials, merge

PAGE_UNITS = 256
PAGE_S = 30.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Aggregator:
    """Is given the run alone: what a constructor is given must be there again when the actor is restarted, and Ray
    keeps large arguments where they can be lost."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.partials: dict[str, Partials] = {}
        self.to_enter: list[str] = []
        self.entered_at = time.monotonic()

    def add(self, unit_id: str, shard_key: str) -> None:
        """Merge one committed shard. Idempotent."""
        record = self.run.read(unit_id, score_name(shard_key), ScoreRecord)
        if record is not None:
            self.partials.setdefault(unit_id, Partials()).add(self.run, record)

    def close(self, order: bytes, at: bytes) -> Outcome:
        """Merge what is missing and commit the unit's quality. order, at: (Job, Attempt), LineContext, packed."""
        started = time.perf_counter()
        job, effort = unpack_args(order)
        desk: LineContext = unpack_args(at)
        try:
            partials = self.partials.pop(job.unit.unit_id, None) or Partials()
            merge(job.unit, desk.manifest, self.run, partials)
        except Exception as error:
            return Outcome(time.perf_counter() - started, failure_of(job, error, effort.attempt), retry_reason(error))
        return Outcome(time.perf_counter() - started)

    def drop(self, unit_id: str) -> None:
        """Forget a unit that was given up."""
        self.partials.pop(unit_id, None)

    def finished(self, unit_ids: Sequence[str]) -> None:
        """These units are done: they are entered in the ledger, now or a little later."""
        self.to_enter += unit_ids
        if len(self.to_enter) >= PAGE_UNITS or time.monotonic() - self.entered_at > PAGE_S:
            self.append_to_ledger()

    def append_to_ledger(self) -> None:
        """Enter in the ledger what is not there yet."""
        page, self.to_enter, self.entered_at = self.to_enter, [], time.monotonic()
        append_to_ledger(self.run, page)

    def report(self, plan: Plan, created: str) -> Board:
        """Build the comparison of everything committed and write the report into the store."""
        self.append_to_ledger()
        ledger = Ledger.read(self.run)
        run = Run(plan.store, self.run.name, ledger)
        board = publish(plan, run, created)
        cache.save(plan, run, board)
        ledger.merge()
        clear(run)
        return board
