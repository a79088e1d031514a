"""The aggregation actors as the driver sees them: what they are told, what they are asked, and where they run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.config.plan import Plan
from raybench.runs.run import Run
from raybench.scheduler.aggregator import Aggregator
from raybench.scheduler.capacity import Cluster
from raybench.scheduler.mergers import Mergers

TELL_S = 1.0


class AggregatorClient:
    """A root, which enters finished units in the ledger and writes the report, and on a large cluster others that merge
    for it. Methods that ask for something return Ray's reference to it."""

    def __init__(self, run: Run, cluster: Cluster, finished: Sequence[str]) -> None:
        """finished: units that are done and not in the ledger."""
        self._run, self._fleet = run, cluster
        self._root = self._actor(0)
        self._mergers = Mergers(self._root, lambda number: self._actor(number + 1))
        self._root.finished.remote(list(finished))
        self._finished: list[str] = []
        self._told_at = 0.0

    def add(self, unit_id: str, shard_key: str) -> None:
        """Merge a committed shard of a unit that has others to come."""
        self._of(unit_id).add.remote(unit_id, shard_key)

    def close(self, unit_id: str, order: Any, desk: Any) -> Any:
        """Merge what is left of the unit and commit its quality. order, desk: as arguments of tasks."""
        return self._of(unit_id).close.remote(order, desk)

    def closed(self, unit_id: str) -> None:
        """The unit's quality is committed."""
        self._mergers.leave(unit_id)

    def drop(self, unit_id: str) -> None:
        """The unit was given up."""
        self._of(unit_id).drop.remote(unit_id)
        self._mergers.leave(unit_id)

    def finished(self, unit_id: str) -> None:
        """The unit is done. See `tell`."""
        self._finished.append(unit_id)

    def tell(self, every_s: float = TELL_S) -> None:
        """The root which units are done, together: a call takes the driver a millisecond or two."""
        if self._finished and time.monotonic() - self._told_at >= every_s:
            self._root.finished.remote(self._finished)
            self._finished, self._told_at = [], time.monotonic()

    def enter(self) -> Any:
        """Enter in the ledger what is not there yet."""
        self.tell(every_s=0.0)
        return self._root.append_to_ledger.remote()

    def report(self, plan: Plan) -> Any:
        """Write the comparison of everything committed; the answer is its board."""
        return self._root.report.remote(plan, datetime.now(UTC).isoformat(timespec="seconds"))

    def _of(self, unit_id: str) -> Any:
        return self._mergers.of(unit_id, self._fleet.capacity.count)

    def _actor(self, number: int) -> Any:
        return Aggregator.options(**beside(self._fleet, number)).remote(self._run)  # type: ignore[attr-defined]


def beside(cluster: Cluster, number: int = 0) -> dict[str, Any]:
    """Merging and the report on nodes without GPUs, where there are any; elsewhere once these are lost. number: of the
    actor; the first gets the largest of them."""
    cpu_nodes = sorted(cluster.capacity.cpu_nodes, key=lambda node: -node.cpus)
    if not cpu_nodes:
        return {"scheduling_strategy": "SPREAD"} if number else {}
    node = cpu_nodes[number % len(cpu_nodes)]
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.node_id, soft=True)}
