"""Which aggregation actor merges which unit. On a small cluster there is one; on a large one it is the root of a tree.

A unit's shards all go to one actor, so that partial metrics never travel between actors: what the root sees of a merged
unit is that it is done. One actor keeps up with about eighty slots whose units take a minute (docs/scale.md); there is
one for every SLOTS_EACH, and more are started when the cluster grows. Pure bookkeeping: knows no Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

SLOTS_EACH = 32


class Mergers:
    """root: the actor that keeps the ledger and writes the report. start: another one, given how many there are."""

    def __init__(self, root: Any, start: Callable[[int], Any]) -> None:
        self._root, self._start = root, start
        self._others: list[Any] = []
        self._at: dict[str, int] = {}
        self._units: Counter[int] = Counter()

    def of(self, unit_id: str, slots: int) -> Any:
        """The actor of this unit: the same until `leave`, at first the one with the fewest. slots: tasks at once."""
        if unit_id not in self._at:
            self._grow(slots)
            self._at[unit_id] = min(range(len(self._others)), key=lambda at: self._units[at], default=-1)
            self._units[self._at[unit_id]] += 1
        at = self._at[unit_id]
        return self._root if at < 0 else self._others[at]

    def leave(self, unit_id: str) -> None:
        """Nothing of this unit is left to merge."""
        at = self._at.pop(unit_id, None)
        if at is not None:
            self._units[at] -= 1

    def _grow(self, slots: int) -> None:
        """The root merges too as long as it is enough alone."""
        wanted = -(-slots // SLOTS_EACH)
        while len(self._others) < wanted and wanted > 1:
            self._others.append(self._start(len(self._others)))
