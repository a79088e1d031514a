"""Rows of the command line's tables, the same for terminals and machines: units, their status, and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raybench.config.plan import PlannedUnit, planned_units
from raybench.detectors import registry
from raybench.runs.status import UnitStatus, unit_statuses

__all__ = ["ModelInfo", "PlannedUnit", "UnitStatus", "known_models", "planned_units", "unit_statuses"]


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be named. min_side, stride: what its network asks of the input, pixels. settings: defaults."""

    name: str
    summary: str
    min_side: int
    stride: int
    settings: Mapping[str, Any]


def known_models(preset: str) -> list[ModelInfo]:
    """raybench's own models, with the defaults of a preset."""
    specs = [registry.resolve(name, {}, preset) for name in registry.names()]
    return [ModelInfo(spec.name, spec.summary, spec.min_side, spec.stride, spec.config) for spec in specs]
