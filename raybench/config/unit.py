"""A unit of work, line × model × seed, and the identity that makes resuming safe.

Two units with one `unit_id` would give the same numbers; whatever could change a number is hashed, transport knobs
(retries, batch size, workers) never are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raybench.data.geometry import Input
from raybench.store.digest import digest

ID_VERSION = 5


@dataclass(frozen=True)
class Protocol:
    """How a unit is trained and judged.

    held_out: share of the OK training images kept back for the threshold. false_alarm_budget: the rate of false
    alarms on OK images the threshold may cause. train_budget_s: seconds of optimiser steps, at most (None: each
    model's own number of steps).
    """

    held_out: float = 0.2
    false_alarm_budget: float = 0.05
    train_budget_s: float | None = None


@dataclass(frozen=True)
class Unit:
    """One line × model × seed. `model` is the label on the board, `detector` the registered name behind it."""

    line: str
    line_digest: str
    model: str
    detector: str
    config: Mapping[str, Any]
    weights: Mapping[str, str]
    input: Input
    seed: int
    protocol: Protocol = field(default_factory=Protocol)

    @functools.cached_property
    def unit_id(self) -> str:
        """20 hex digits of the SHA-256 over everything that can change a number."""
        identity = asdict(self) | {"id_version": ID_VERSION}
        identity.pop("model")
        return digest(identity)[:20]

    def __str__(self) -> str:
        return f"{self.line} × {self.model} × seed {self.seed}"
