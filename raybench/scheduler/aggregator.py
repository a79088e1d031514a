"""The aggregation actor keeps the ledgers of runs and builds board, flags and report.

It holds nothing at all: killed at any time, it is started again, and units that it had not entered are read from their
own commits, and entered by the next run. Merging a unit's shards is a task like any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import ray

from raybench.analysis.board import Board
from raybench.config.plan import Plan
from raybench.report.publish import cache_report, publish
from raybench.runs.ledger import Ledger, append_to_ledger
from raybench.runs.run import RunStore
from raybench.scheduler.prefetch import clear


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Aggregator:
    """One serves all runs of a driver: its process takes seconds of CPU to start and import."""

    def append_to_ledger(self, run: RunStore, unit_ids: Sequence[str]) -> None:
        """Enter finished units in the run's ledger."""
        append_to_ledger(run, unit_ids)

    def report(self, run: RunStore, plan: Plan, created: str) -> Board:
        """See `build_report`."""
        return build_report(run, plan, created)


def build_report(run: RunStore, plan: Plan, created: str) -> Board:
    """Build the comparison of everything committed and write the report into the store."""
    ledger = Ledger.read(run, whole=True)
    read = RunStore(plan.store, run.name, ledger)
    board = publish(plan, read, created)
    cache_report(plan, read, board)
    ledger.merge(plan.units)
    clear(read)
    return board
