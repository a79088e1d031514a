"""Estimate the cost of units from recorded costs, and record the forecast of a command beside what it took.

The seconds of each phase are estimated from the most similar recorded units: with the same settings, input size and
CPUs per task; else with other CPUs; else with another input size; else with other settings of the same model; else the
average of all models. At each level the run's own units take precedence over those of other runs. The model is
seconds = a + b · images · pixels, fitted by least squares (a, b >= 0); if all units have the same number of images,
time is proportional to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.errors import ObjectMissing
from raybench.runs.costs import CostRow, Costs, settings_of, takes_steps
from raybench.runs.records import Phase
from raybench.runs.run import RunStore, decode, encode

MatchLevel = Literal["recorded", "other CPUs", "other size", "other settings", "average", "nothing"]
BASES: tuple[MatchLevel, ...] = ("recorded", "other CPUs", "other size", "other settings", "average", "nothing")
_Key = tuple[object, ...]


@dataclass
class _Fit:
    """Sums for weighted least squares of y = a + b x."""

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float, weight: float) -> None:
        self.n += weight
        self.x += weight * x
        self.y += weight * y
        self.xx += weight * x * x
        self.xy += weight * x * y

    def at(self, x: float) -> float:
        spread = self.n * self.xx - self.x * self.x
        if spread <= 1e-9 * self.n * self.xx:  # one x only
            return self.y / self.x * x if self.x else self.y / self.n
        b = (self.n * self.xy - self.x * self.y) / spread
        a = (self.y - b * self.x) / self.n
        if b < 0:
            return self.y / self.n
        return a + b * x if a >= 0 else self.xy / self.xx * x


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
        return self.seconds.get("train", 0.0) + self.seconds.get("score", 0.0)


class CostModel:
    """Estimates the costs of units.

    Args:
        costs: Recorded costs.
        device: Torch name of the device that the units will run on.
        cpus: CPUs of a train or score task; timing takes the same time on any number.
    """

    def __init__(self, costs: Costs, device: str, cpus: int) -> None:
        self.costs, self.device = costs, device
        self._cpus: dict[Phase, int] = {"train": cpus, "score": cpus, "measure": 0}
        self._books = tuple(_book(rows, device) for rows in (costs.own, costs.others))
        self._known: dict[_Key, CostEstimate] = {}

    def estimate(self, unit: Unit, manifest: Manifest) -> CostEstimate:
        """Estimate the cost of a unit; an empty estimate if no unit of any model was recorded on the device."""
        images = (manifest.train_ok, manifest.scored_images)
        key = (unit.detector, settings_of(unit), (unit.input.height, unit.input.width))
        alike = (*key, images)
        if alike not in self._known:
            self._known[alike] = self._guess(key, takes_steps(unit), images)
        return self._known[alike]

    def _guess(self, key: tuple[str, str, tuple[int, int]], steps: bool, images: tuple[int, int]) -> CostEstimate:
        """images: to train on, and to score."""
        counts: dict[Phase, int] = {"train": images[0], "score": images[1], "measure": 0}
        found: dict[Phase, tuple[float, MatchLevel, bool]] = {}
        for phase, count in counts.items():
            x = _extent(phase, count, key[2][0] * key[2][1], steps)
            part = self._look_up(_places(*key, self._cpus[phase]), phase, x)
            if part is None:
                return CostEstimate()
            found[phase] = part
        basis = max((part[1] for part in found.values()), key=BASES.index)
        return CostEstimate(
            {phase: part[0] for phase, part in found.items()}, basis, all(part[2] for part in found.values())
        )

    def _look_up(self, places: Sequence[_Key], phase: Phase, x: float) -> tuple[float, MatchLevel, bool] | None:
        for place, basis in zip(places, BASES, strict=False):
            for book, own in zip(self._books, (True, False), strict=True):
                if fit := book.get((phase, *place)):
                    return fit.at(x if place else 1.0), basis, own
        return None


def _places(detector: str, settings: str, size: tuple[int, int], cpus: int) -> tuple[_Key, ...]:
    """Where to look, the closest first: one place per basis. The last is all models', of which only the mean tells."""
    return (detector, settings, size, cpus), (detector, settings, size), (detector, settings), (detector,), ()


def _book(rows: Sequence[CostRow], device: str) -> dict[_Key, _Fit]:
    """Fits by phase and place."""
    book: dict[_Key, _Fit] = {}
    for row in rows:
        if row.device != device:
            continue
        x = _extent(row.phase, row.images, row.height * row.width, row.steps)
        cpus = 0 if row.phase == "measure" else row.cpus
        for place in _places(row.detector, row.settings, (row.height, row.width), cpus):
            book.setdefault((row.phase, *place), _Fit()).add(x if place else 1.0, row.seconds, row.units)
    return book


def _extent(phase: Phase, images: int, pixels: int, by_steps: bool) -> float:
    """What the time of a phase grows with: timing has a time of its own, and a model that takes a number of optimiser
    steps takes them on any number of images."""
    if phase == "measure":
        return 1.0
    return float(pixels) * (1 if phase == "train" and by_steps else images)


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
    bases: Mapping[MatchLevel, int] = field(default_factory=dict)
    """Number of units estimated from each level of match."""
    predicted: Work | None = None
    """Estimate; None if nothing was recorded to estimate from."""
    took: Work | None = None
    """Time of all tasks, failed and repeated ones included; None until the command has ended."""
    done: int = 0
    """Number of units done in that time."""
    damaged: tuple[str, ...] = ()
    """Keys of recorded costs that could not be read."""


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
