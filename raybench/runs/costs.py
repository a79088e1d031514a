"""What units have cost, in one small object per run, and what others will cost.

costs/<run>.json    per model, settings, input size, device, CPUs and number of images: seconds per phase, GPU memory

A run's own finished units are read from its ledger, other runs' from these objects: nothing lists the store's units.
What is said here only orders and predicts work; no number of the comparison rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from raybench.config.unit import Unit
from raybench.errors import IntegrityError, ObjectMissing
from raybench.runs.ledger import Ledger
from raybench.runs.records import Phase, ResourceUsage, UnitResult
from raybench.runs.run import Run, decode, encode
from raybench.store import Store
from raybench.store.digest import digest

FOLDER = "costs/"
READERS = 16
Kind = tuple[str, str, int, int, Phase]
OWN_UNITS = 4096  # of a run's own finished units, so many are looked at


@dataclass(frozen=True)
class CostRow:
    """One phase of units that are alike. settings: digest of the model's settings, its training budget and its tiles.
    steps: whether these set a number of optimiser steps. cpus: of a task. images: that the phase looks at, per unit.
    units: how many were averaged. seconds: their mean. peak_memory_mb: their highest. device_memory_mb: of the
    smallest of their GPUs."""

    detector: str
    settings: str
    steps: bool
    height: int
    width: int
    device: str
    cpus: int
    phase: Phase
    images: int
    units: int
    seconds: float
    peak_memory_mb: float | None = None
    device_memory_mb: float | None = None

    @property
    def kind(self) -> Kind:
        return self.detector, self.settings, self.height, self.width, self.phase

    @property
    def alike(self) -> tuple[object, ...]:
        return (*self.kind, self.device, self.cpus, self.images)

    def plus(self, other: CostRow) -> CostRow:
        units = self.units + other.units
        seconds = (self.seconds * self.units + other.seconds * other.units) / units
        peaks = [peak for peak in (self.peak_memory_mb, other.peak_memory_mb) if peak is not None]
        sizes = [size for size in (self.device_memory_mb, other.device_memory_mb) if size is not None]
        peak_mb, device_mb = max(peaks, default=None), min(sizes, default=None)
        return replace(self, units=units, seconds=seconds, peak_memory_mb=peak_mb, device_memory_mb=device_mb)


@dataclass(frozen=True)
class Costs:
    """own: of the run's own finished units. others: of other runs in the store. damaged: keys that could not be
    read; they are left out."""

    own: tuple[CostRow, ...] = ()
    others: tuple[CostRow, ...] = ()
    damaged: tuple[str, ...] = ()


def settings_of(unit: Unit) -> str:
    """Units with one digest train and score the same way."""
    return digest([dict(unit.config), unit.protocol.train_budget_s, unit.input.tile])[:12]


def kind_of(unit: Unit, phase: Phase) -> Kind:
    """Tasks of one kind hold the same memory."""
    return unit.detector, settings_of(unit), unit.input.height, unit.input.width, phase


def takes_steps(unit: Unit) -> bool:
    """Whether training takes a number of optimiser steps, whatever the number of images."""
    return "steps" in unit.config


def row_of(unit: Unit, phase: Phase, spent: ResourceUsage) -> CostRow:
    cpus = max(1, round(spent.cpu_s / spent.seconds)) if spent.seconds else 1
    return CostRow(
        detector=unit.detector,
        settings=settings_of(unit),
        steps=takes_steps(unit),
        height=unit.input.height,
        width=unit.input.width,
        device=spent.device,
        cpus=cpus,
        phase=phase,
        images=spent.images,
        units=1,
        seconds=spent.seconds,
        peak_memory_mb=spent.peak_memory_mb,
        device_memory_mb=spent.device_memory_mb,
    )


def summed(rows: Iterable[CostRow]) -> tuple[CostRow, ...]:
    """Rows that are alike become one."""
    found: dict[tuple[object, ...], CostRow] = {}
    for row in rows:
        known = found.get(row.alike)
        found[row.alike] = known.plus(row) if known else row
    return tuple(found[alike] for alike in sorted(found, key=repr))


def write_costs(run: Run, finished: Iterable[tuple[Unit, UnitResult]]) -> None:
    """Put down what the finished units of `run` have cost, for other runs. Nothing where that was not recorded."""
    rows = summed(row for unit, result in finished for row in _rows(unit, result))
    if rows:
        run.store.put(f"{FOLDER}{run.name}.json", encode(Costs(own=rows)))


def read_costs(run: Run, ledger: Ledger, units: Sequence[Unit]) -> Costs:
    """What is known: of the finished ones of `units` in the ledger, and of the other runs in the store."""
    others, damaged = _others(run.store, f"{FOLDER}{run.name}.json")
    return Costs(summed(_own(run, ledger, units)), summed(others), damaged)


def _own(run: Run, ledger: Ledger, units: Sequence[Unit]) -> Iterator[CostRow]:
    done = ledger.done
    remembering = Run(run.store, run.name, ledger)
    finished = [unit for unit in units if unit.unit_id in done]
    step = -(-len(finished) // OWN_UNITS) or 1
    for unit in finished[::step]:
        if result := remembering.read(unit.unit_id, "result", UnitResult):
            yield from _rows(unit, result)


def _others(store: Store, own: str) -> tuple[list[CostRow], tuple[str, ...]]:
    keys = [item.key for item in store.list(FOLDER) if item.key.endswith(".json") and item.key != own]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(zip(keys, pool.map(lambda key: _read(store, key), keys), strict=True))
    damaged = tuple(key for key, rows in found if rows is None)
    return [row for _, rows in found for row in rows or ()], damaged


def _read(store: Store, key: str) -> tuple[CostRow, ...] | None:
    try:
        return decode(Costs, store.get(key), store.uri(key)).own
    except ObjectMissing:
        return ()
    except IntegrityError:
        return None


def _rows(unit: Unit, result: UnitResult) -> Iterator[CostRow]:
    return (row_of(unit, phase, spent) for phase, spent in result.spent.items())
