"""What one command made of a run. It stands apart from the runner, so that a run with nothing to do needs no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raybench.analysis.board import Board
from raybench.runs.records import Failure


@dataclass(frozen=True)
class RunSummary:
    """The board of a run, and what became of its units in one command."""

    board: Board
    units: int
    """Units of the plan."""
    reused: int
    """Units that were done before."""
    failed: Mapping[str, Failure] = field(default_factory=dict)
    """Failures of this command by unit_id, without tracebacks: those are in the store."""
    uninspected: Mapping[str, Failure] = field(default_factory=dict)
    """Lines whose data inspection failed."""
    unusable: Sequence[str] = ()
    """Why nodes were left out: their GPUs do not compute, or they fail what other nodes do."""

    @property
    def text(self) -> str:
        done = self.units - self.reused - len(self.failed)
        return f"{self.units} units: {done} done now, {self.reused} done before, {len(self.failed)} failed"
