"""The aggregation actor: merges the partial metrics of scored shards and builds the report. On a large cluster others
of its kind do the merging: see `mergers`.

It holds nothing that is not in the store: killed at any time, it comes back empty, and what it lacks is merged when a
unit is closed. A unit's state is dropped then, so memory depends on the units under way, not on the length of the run.
Finished units it enters in the ledger, some at a time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import ray

from raybench.findings.board import Board
from raybench.ledger import Ledger, enter
from raybench.plan import Plan
from raybench.reports import unchanged
from raybench.reports.publish import publish
from raybench.runs import Run, ScoreRecord, score_name
from raybench.schedule.backlog import Job
from raybench.schedule.tasks import Outcome, failure_of, trouble_of
from raybench.work.conclude import Partials, merge

PAGE_UNITS = 256
PAGE_S = 30.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Aggregator:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run = Run(plan.store, plan.experiment.name)
        self.partials: dict[str, Partials] = {}
        self.to_enter: list[str] = []
        self.entered_at = time.monotonic()

    def add(self, unit_id: str, shard_key: str) -> None:
        """Merge one committed shard. Idempotent."""
        record = self.run.read(unit_id, score_name(shard_key), ScoreRecord)
        if record is not None:
            self.partials.setdefault(unit_id, Partials()).add(self.run, record)

    def close(self, job: Job, attempt: int) -> Outcome:
        """Merge what is missing and commit the unit's quality."""
        started = time.perf_counter()
        try:
            partials = self.partials.pop(job.unit.unit_id, None) or Partials()
            merge(job.unit, self.plan.manifests[job.unit.line], self.run, partials)
        except Exception as error:
            return Outcome(time.perf_counter() - started, failure_of(job, error, attempt), trouble_of(error))
        return Outcome(time.perf_counter() - started)

    def drop(self, unit_id: str) -> None:
        """Forget a unit that was given up."""
        self.partials.pop(unit_id, None)

    def finished(self, unit_ids: Sequence[str]) -> None:
        """These units are done: they are entered in the ledger, now or a little later."""
        self.to_enter += unit_ids
        if len(self.to_enter) >= PAGE_UNITS or time.monotonic() - self.entered_at > PAGE_S:
            self.enter()

    def enter(self) -> None:
        """Enter in the ledger what is not there yet."""
        page, self.to_enter, self.entered_at = self.to_enter, [], time.monotonic()
        enter(self.run, page)

    def report(self, created: str) -> Board:
        """Build the comparison of everything committed and write the report into the store."""
        self.enter()
        ledger = Ledger.read(self.run)
        run = Run(self.plan.store, self.run.name, ledger)
        board = publish(self.plan, run, created)
        unchanged.note(self.plan, run, board)
        ledger.merge()
        return board
