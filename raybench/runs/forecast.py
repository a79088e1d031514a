"""What a command was predicted to take, and what it took: written when it starts, and again when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raybench.errors import ObjectMissing
from raybench.runs.cost_model import MatchLevel
from raybench.runs.run import Run, decode, encode


@dataclass(frozen=True)
class Work:
    """wall_s: from the first task to the last. cpu_s, gpu_s: seconds of all tasks times the CPUs and the share of a
    GPU that each had."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """Of one command. units: that were to be done. slots: tasks at once, on so many nodes. bases: how many units each
    basis was used for. predicted: None where nothing has been recorded. took: None until the command has ended; then
    for so many `done` units, those that failed and tasks that were done again included. damaged: keys of recorded
    costs that could not be read."""

    units: int
    device: str
    slots: int
    nodes: int
    bases: Mapping[MatchLevel, int] = field(default_factory=dict)
    predicted: Work | None = None
    took: Work | None = None
    done: int = 0
    damaged: tuple[str, ...] = ()


def write_forecast(run: Run, forecast: Forecast) -> None:
    run.store.put(_key(run), encode(forecast))


def read_forecast(run: Run) -> Forecast | None:
    """Of the latest command that had something to do; None before the first. Raises IntegrityError."""
    try:
        return decode(Forecast, run.store.get(_key(run)), run.store.uri(_key(run)))
    except ObjectMissing:
        return None


def _key(run: Run) -> str:
    return f"{run.root}/forecast.json"
