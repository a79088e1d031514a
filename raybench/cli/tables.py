"""What is planned, how far it is, and which models there are: for tables on a terminal and, the same, for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raybench.config.plan import Plan
from raybench.config.plan import planned_units as planned_units
from raybench.detectors import registry

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
            return f"trained, {self.scored_shards} of {self.shards} shards scored"
        return self.state


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be named. min_side, stride: what its network asks of the input, pixels. settings: defaults."""

    name: str
    summary: str
    min_side: int
    stride: int
    settings: Mapping[str, Any]


def unit_statuses(plan: Plan, commits: Mapping[str, set[str]]) -> list[UnitStatus]:
    """How far each unit of `plan` is. commits: unit_id → names of its commits and of its failure."""
    found = []
    for unit in plan.units:
        names, shards = commits.get(unit.unit_id, set()), len(plan.manifests[unit.line].scored_shards)
        state = _state(names)
        scored = shards if state == "done" else sum(name.startswith("score-") for name in names)
        found.append(UnitStatus(unit.unit_id, unit.line, unit.model, unit.seed, state, scored, shards))
    return found


def known_models(preset: str) -> list[ModelInfo]:
    """raybench's own models, with the defaults of a preset."""
    specs = [registry.resolve(name, {}, preset) for name in registry.names()]
    return [ModelInfo(spec.name, spec.summary, spec.min_side, spec.stride, spec.config) for spec in specs]


def _state(names: set[str]) -> State:
    if "result" in names:
        return "done"
    if "failure" in names:
        return "failed"
    return "trained" if "train" in names else "waiting"
