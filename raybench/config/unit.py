"""A unit of work, line × model × seed, and its identities, which make resuming safe.

Two units with the same `unit_id` give the same numbers, and two with the same `detector_id` the same trained detector:
new test images and corrected labels make another unit of the same detector, which is not trained again. Everything that
could change a number is hashed; retries, batch size and number of workers are not.

A detector may be trained on several lines together. It is fitted once (`fit_id`); each line's unit sets its own
thresholds on its own held-back images (`detector_id`), and is scored and judged like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raybench.data.geometry import Input
from raybench.store import digest

ID_VERSION = 11
ID_CHANGE = "scores are rounded in another way on a CPU, and scoring keeps small heat maps for the report"
"""Why units of the version before are done again."""


@dataclass(frozen=True)
class Protocol:
    """How a unit is trained and judged."""

    held_out: float = 0.2
    """Share of the OK training images held back for the threshold, or of their groups."""
    false_alarm_budget: float = 0.05
    """False-alarm rate on OK images that the threshold may cause."""
    train_budget_s: float | None = None
    """Time limit of the optimiser steps in seconds. If None, each model's own number of steps applies."""
    train_images: int | None = None
    """OK images to train on and to hold back, about. If None, all of the line's."""

    def of_train(self, images: int) -> int:
        """Return how many of a line's OK training images are used, about."""
        return images if self.train_images is None else min(images, self.train_images)


@dataclass(frozen=True)
class TrainingLine:
    """A line whose OK images a detector is trained on together with those of others."""

    line: str
    """Name of the line."""
    training_digest: str
    """Digest of the line's OK training images, from its manifest."""
    protocol: Protocol
    """How the line's images are split into those to train on and those to hold back."""


@dataclass(frozen=True)
class Unit:
    """One line × model × seed."""

    line: str
    """Name of the line."""
    line_digest: str
    """Digest of the line's images and labels, from its manifest."""
    training_digest: str
    """Digest of the line's OK training images alone, from its manifest."""
    model: str
    """Label on the board."""
    detector: str
    """Registered name of the detector behind the label."""
    config: Mapping[str, Any]
    """All settings of the detector."""
    weights: Mapping[str, str]
    """sha256 of each file of pretrained weights, by name."""
    input: Input
    """Size of the network's input and how images are resized for it."""
    seed: int
    """Seed of all randomness in training."""
    protocol: Protocol = field(default_factory=Protocol)
    """How the unit is trained and judged."""
    together: tuple[TrainingLine, ...] = ()
    """All lines that the detector is trained on together, this one included, by name. Empty: this line alone."""
    timed_on: str = ""
    """Name of the machine whose times count. Empty: whichever times it first."""
    revision: str = ""
    """What is changed to compute everything anew; it has no other meaning."""

    @functools.cached_property
    def unit_id(self) -> str:
        """The first 20 hex digits of the SHA-256 of everything that can change a number."""
        return digest(self._identity("training_digest"))[:20]

    @functools.cached_property
    def detector_id(self) -> str:
        """The first 20 hex digits of the SHA-256 of everything that the trained detector depends on."""
        return digest(self._identity("line_digest"))[:20]

    @functools.cached_property
    def fit_id(self) -> str:
        """Identity of the fitted detector without thresholds: units of lines that are trained together share it.

        It is the `detector_id` of a unit that is trained on its own line alone.
        """
        if not self.together:
            return self.detector_id
        network = (self.input.mode, self.input.height, self.input.width, self.input.tile)
        trained = (
            self.detector,
            self.deciding_config,
            dict(self.weights),
            network,
            self.seed,
            self.protocol.train_budget_s,
            self.revision,
        )
        return digest([ID_VERSION, [asdict(line) for line in self.together], *trained])[:20]

    @property
    def measure_name(self) -> str:
        """Name of the commit of its detector's times."""
        return f"measure-{self.timed_on}" if self.timed_on else "measure"

    @property
    def folders(self) -> tuple[str, str, str]:
        """Where its commits, its detector's, and those of the fit that the detector is from lie in a store."""
        return self.unit_id, self.detector_id, self.fit_id

    @property
    def deciding_config(self) -> dict[str, Any]:
        """The settings that can change a number: all but the licence of a backbone."""
        backbone = self.config.get("backbone")
        if not isinstance(backbone, Mapping):
            return dict(self.config)
        return {**self.config, "backbone": {key: value for key, value in backbone.items() if key != "licence"}}

    def _identity(self, without: str) -> dict[str, Any]:
        identity = asdict(self) | {"id_version": ID_VERSION, "config": self.deciding_config}
        del identity["model"], identity[without]
        if without == "line_digest":  # the detector is the same wherever it is timed
            del identity["timed_on"]
        return identity

    def __str__(self) -> str:
        return f"{self.line} × {self.model} × seed {self.seed}"
