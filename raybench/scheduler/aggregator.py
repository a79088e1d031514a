"""The aggregation actor keeps the run's ledger and builds board, flags and report.

It holds nothing that is not in the store: killed at any time, it comes back empty, and units that it had not entered
are read from their own commits, and entered by the next run. Merging a unit's shards is a task like any other.
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
from raybench.runs.run import RunStore
from raybench.scheduler.prefetch import clear

PAGE_UNITS = 256
PAGE_S = 30.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Aggregator:
    """The constructor takes the run alone: a restarted actor gets its arguments again, and Ray keeps large ones where
    they can be lost."""

    def __init__(self, run: RunStore) -> None:
        self.run = run
        self.finished_units: list[str] = []
        self.appended_at = time.monotonic()

    def finished(self, unit_ids: Sequence[str]) -> None:
        """Note finished units; enter them in the ledger once they fill a page or PAGE_S has passed."""
        self.finished_units += unit_ids
        if len(self.finished_units) >= PAGE_UNITS or time.monotonic() - self.appended_at > PAGE_S:
            self.append_to_ledger()

    def append_to_ledger(self) -> None:
        """Enter in the ledger what is not there yet."""
        page, self.finished_units, self.appended_at = self.finished_units, [], time.monotonic()
        append_to_ledger(self.run, page)

    def report(self, plan: Plan, created: str) -> Board:
        """Build the comparison of everything committed and write the report into the store."""
        self.append_to_ledger()
        ledger = Ledger.read(self.run)
        run = RunStore(plan.store, self.run.name, ledger)
        board = publish(plan, run, created)
        cache.save(plan, run, board)
        ledger.merge()
        clear(run)
        return board
