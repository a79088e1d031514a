"""How far the units of a run are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raybench.config.plan import Plan
from raybench.runs.run import scored_name

State = Literal["waiting", "trained", "failed", "done"]


@dataclass(frozen=True)
class UnitStatus:
    """How far a unit is. scored_shards: of `shards`; of a unit that is done, all."""

    unit_id: str
    line: str
    model: str
    seed: int
    state: State
    scored_shards: int
    shards: int

    @property
    def text(self) -> str:
        if self.state == "failed":
            return "failed; the same command tries it again"
        if self.state == "trained":
            if self.scored_shards == self.shards:
                return "scored, to be judged"
            return f"trained, {self.scored_shards} of {self.shards} shards scored"
        return self.state


def unit_statuses(plan: Plan, commits: Mapping[str, set[str]]) -> list[UnitStatus]:
    """How far each unit of `plan` is. commits: unit_id → names of its commits and of its failure."""
    found = []
    for unit in plan.units:
        names, manifest = commits.get(unit.unit_id, set()), plan.manifests[unit.line]
        shards = len(manifest.scored_shards)
        state = _state(names)
        scored = shards if state == "done" else sum(scored_name(shard) in names for shard in manifest.scored_shards)
        found.append(UnitStatus(unit.unit_id, unit.line, unit.model, unit.seed, state, scored, shards))
    return found


def _state(names: set[str]) -> State:
    if "finished" in names:
        return "done"
    if "failure" in names:
        return "failed"
    return "trained" if "train" in names else "waiting"
