"""Estimate the cost of units from recorded costs, and record the forecast of a command beside what it took.

The seconds of each phase are estimated from the most similar recorded units: of the same model with the same settings
and input size; else of the same model; else the average of all models. At each level the run's own units take
precedence over those of other runs. Seconds = a + b · images · pixels is fitted by least squares with a, b >= 0; if all
units have the same number of images, time is proportional to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.errors import ObjectMissing
from raybench.runs.costs import CostRow, Costs, settings_of, takes_steps
from raybench.runs.records import Phase
from raybench.runs.run import RunStore, decode, encode

MatchLevel = Literal["recorded", "same model", "average", "nothing"]
LEVELS: tuple[MatchLevel, ...] = ("recorded", "same model", "average", "nothing")
WORK: tuple[Phase, ...] = ("fit", "train", "score")
_Group = tuple[object, ...]


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a unit."""

    seconds: Mapping[Phase, float] = field(default_factory=dict)
    """Seconds of all tasks of the unit, by phase."""
    basis: MatchLevel = "nothing"
    """The weakest match among the phases."""
    own: bool = False
    """Whether all phases are estimated from the run's own units."""

    @property
    def known(self) -> bool:
        """Whether there was anything to estimate from."""
        return self.basis != "nothing"

    @property
    def work_s(self) -> float:
        """Seconds of training and scoring."""
        return sum(self.seconds.get(phase, 0.0) for phase in WORK)


class CostModel:
    """Estimates the costs of units.

    Args:
        costs: Recorded costs.
        device: Torch name of the device that the units will run on.
    """

    def __init__(self, costs: Costs, device: str) -> None:
        self._fits = tuple(_fit_groups(rows, device) for rows in (costs.own, costs.others))
        self._estimates: dict[_Group, CostEstimate] = {}

    def estimate(self, unit: Unit, manifest: Manifest, train: int | None = None) -> CostEstimate:
        """Estimate the cost of a unit; an empty estimate if no unit of any model was recorded on the device.

        Args:
            unit: The unit. If it is trained on several lines together, the phase `fit` is for all of them.
            manifest: Manifest of its line.
            train: Number of OK images to train on and to hold back. None: those of its line.
        """
        train = unit.protocol.of_train(manifest.train_ok) if train is None else train
        score = manifest.scored_images
        groups = _groups(unit.detector, settings_of(unit), unit.input.height, unit.input.width)
        key = (*groups[0], train, score)
        if key not in self._estimates:
            images: dict[Phase, int] = {"train": train, "score": score, "measure": 0}
            pixels, steps = unit.input.height * unit.input.width, takes_steps(unit)
            extents = {phase: _extent(phase, count, pixels, steps) for phase, count in images.items()}
            self._estimates[key] = self._estimate(groups, extents)
        found = self._estimates[key]
        if not (unit.together and found.known):
            return found
        return replace(found, seconds={**found.seconds, "fit": found.seconds["train"], "train": 0.0})

    def _estimate(self, groups: Sequence[_Group], extents: Mapping[Phase, float]) -> CostEstimate:
        phases = {phase: self._estimate_phase(phase, groups, extent) for phase, extent in extents.items()}
        known = {phase: estimate for phase, estimate in phases.items() if estimate}
        if len(known) < len(phases):
            return CostEstimate()
        basis = max((level for _, level, _ in known.values()), key=LEVELS.index)
        seconds = {phase: value for phase, (value, _, _) in known.items()}
        return CostEstimate(seconds, basis, all(own for _, _, own in known.values()))

    def _estimate_phase(
        self, phase: Phase, groups: Sequence[_Group], extent: float
    ) -> tuple[float, MatchLevel, bool] | None:
        """Return seconds, level of the match, and whether it is among the run's own units."""
        for group, level in zip(groups, LEVELS, strict=False):
            for fits, own in zip(self._fits, (True, False), strict=True):
                if fit := fits.get((phase, *group)):
                    offset, slope = fit
                    return offset + slope * extent, level, own
        return None


def _groups(detector: str, settings: str, height: int, width: int) -> tuple[_Group, ...]:
    """Return the group of units to estimate from at each level, the most similar first."""
    return (detector, settings, height, width), (detector,), ()


def _fit_groups(rows: Sequence[CostRow], device: str) -> dict[_Group, tuple[float, float]]:
    """Fit offset and slope of the seconds by phase and group."""
    by_group: dict[_Group, list[CostRow]] = {}
    for row in rows:
        if row.device == device:
            for group in _groups(row.detector, row.settings, row.height, row.width):
                by_group.setdefault((row.phase, *group), []).append(row)
    return {group: _fit(members, constant=len(group) == 1) for group, members in by_group.items()}


def _fit(rows: Sequence[CostRow], constant: bool) -> tuple[float, float]:
    """Fit seconds = offset + slope · extent, both at least 0, by least squares weighted by units.

    Returns offset and slope: the mean and 0 if `constant` is set, 0 and a slope if all extents are equal.
    """
    units, seconds = (np.array([getattr(row, name) for row in rows], np.float64) for name in ("units", "seconds"))
    extents = np.array([_extent(row.phase, row.images, row.height * row.width, row.steps) for row in rows])
    mean, scale = float(np.average(seconds, weights=units)), float(extents.max())
    if constant or scale == 0:
        return mean, 0.0
    x, weights = extents / scale, np.sqrt(units)
    if np.ptp(x) < 1e-6:
        return 0.0, mean / scale
    columns = np.stack([np.ones_like(x), x], axis=1)
    offset, slope = np.linalg.lstsq(columns * weights[:, np.newaxis], seconds * weights)[0].tolist()
    if slope < 0:
        return mean, 0.0
    if offset < 0:
        return 0.0, float(np.average(x * seconds, weights=units) / np.average(x * x, weights=units)) / scale
    return offset, slope / scale


def _extent(phase: Phase, images: int, pixels: int, by_steps: bool) -> float:
    """Return the quantity that the time of a phase grows with.

    Timing takes the same time for every unit. A fixed number of optimiser steps takes the same time for any number of
    images.
    """
    if phase == "measure":
        return 1.0
    return float(pixels) * (1 if phase == "train" and by_steps else images)


LeftOut = Literal["budget", "race", "attempts"]
"""What a unit is left out for: a limit of the run's cost, a race that its model cannot win, or that it failed often."""


@dataclass(frozen=True)
class Work:
    """Time that a set of tasks takes."""

    wall_s: float = 0.0
    """Seconds from the first task to the last."""
    cpu_s: float = 0.0
    """Seconds of each task times its CPUs, summed."""
    gpu_s: float = 0.0
    """Seconds of each task times its share of a GPU, summed."""


@dataclass(frozen=True)
class Forecast:
    """The estimate for one command and, once it has ended, what it took."""

    units: int
    """Number of units that were to be done."""
    device: str
    """Torch name."""
    slots: int
    """Number of tasks at once."""
    nodes: int
    """Number of nodes."""
    bases: Mapping[str, int] = field(default_factory=dict)
    """Number of units estimated from each `MatchLevel`; an older raybench stored other levels."""
    predicted: Work | None = None
    """Estimate; None if nothing was recorded to estimate from."""
    took: Work | None = None
    """Time of all tasks, failed and repeated ones included; None until the command has ended."""
    done: int = 0
    """Number of units done in that time."""
    damaged: tuple[str, ...] = ()
    """Keys of recorded costs that could not be read."""
    trains: int = 0
    """Number of detectors that are to be trained."""
    scores: int = 0
    """Number of images that detectors are to score, summed over units."""
    judges: int = 0
    """Number of units whose images are all scored, and only to be judged by new labels, merged or timed."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """What units are left out for, by unit_id."""


def write_forecast(run: RunStore, forecast: Forecast) -> None:
    """Store the forecast of the run's latest command."""
    run.store.put(_forecast_key(run), encode(forecast))


def read_forecast(run: RunStore) -> Forecast | None:
    """Return the forecast of the latest command that had something to do; None before the first.

    Raises:
        IntegrityError: The stored forecast is damaged.
    """
    key = _forecast_key(run)
    try:
        return decode(Forecast, run.store.get(key), run.store.uri(key))
    except ObjectMissing:
        return None


def _forecast_key(run: RunStore) -> str:
    return f"{run.root}/forecast.json"
