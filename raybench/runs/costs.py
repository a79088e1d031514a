"""Recorded costs of units, in one small object per run, from which the costs of other units are estimated.

costs/<run>.json    per model, settings, input size, device, CPUs and number of images: seconds per phase, GPU memory

Costs of a run's own finished units are read from its ledger, costs of other runs from these objects, so the store's
units are never listed. Costs only order and estimate work; no number of the comparison depends on them. A unit that
several runs have is in the object of each: it weighs more among its own kind, whose mean it hardly moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from raybench.config.unit import Unit
from raybench.errors import IntegrityError, ObjectMissing
from raybench.runs.ledger import Ledger
from raybench.runs.records import Phase, ResourceUsage, UnitResult
from raybench.runs.run import RunStore, decode, encode
from raybench.store import Store, digest

FOLDER = "costs/"
READERS = 16
Kind = tuple[str, str, int, int, Phase]
OWN_UNITS = 4096  # most of a run's own finished units that are read


@dataclass(frozen=True)
class CostRow:
    """The cost of one phase, averaged over similar units."""

    detector: str
    settings: str
    """Digest of the model's settings, its training budget and its tiles."""
    steps: bool
    """Whether the settings fix the number of optimiser steps."""
    height: int
    """Height of the network's input."""
    width: int
    """Width of the network's input."""
    device: str
    """Torch name."""
    cpus: int
    """CPUs per task."""
    phase: Phase
    images: int
    """Number of images that the phase processes, per unit."""
    units: int
    """Number of units that were averaged."""
    seconds: float
    """Mean wall time over the units."""
    peak_memory_mb: float | None = None
    """Highest GPU memory over the units, in 10^6 bytes; None if unknown."""
    device_memory_mb: float | None = None
    """Memory of the smallest of their GPUs, in 10^6 bytes; None if unknown."""

    @property
    def kind(self) -> Kind:
        """Tasks of the same kind use the same memory."""
        return self.detector, self.settings, self.height, self.width, self.phase

    @property
    def group(self) -> tuple[object, ...]:
        """Rows of the same group are averaged."""
        return (*self.kind, self.device, self.cpus, self.images)

    def merge(self, other: CostRow) -> CostRow:
        """Average with a row of the same group, weighted by units."""
        units = self.units + other.units
        seconds = (self.seconds * self.units + other.seconds * other.units) / units
        peaks = [peak for peak in (self.peak_memory_mb, other.peak_memory_mb) if peak is not None]
        sizes = [size for size in (self.device_memory_mb, other.device_memory_mb) if size is not None]
        peak_mb, device_mb = max(peaks, default=None), min(sizes, default=None)
        return replace(self, units=units, seconds=seconds, peak_memory_mb=peak_mb, device_memory_mb=device_mb)


@dataclass(frozen=True)
class Costs:
    """Recorded costs."""

    own: tuple[CostRow, ...] = ()
    """Costs of the run's own finished units."""
    others: tuple[CostRow, ...] = ()
    """Costs of other runs in the store."""
    damaged: tuple[str, ...] = ()
    """Keys of objects that could not be read and were left out."""


def settings_of(unit: Unit) -> str:
    """Return a digest of the settings; units with the same digest train and score the same way."""
    return digest([dict(unit.config), unit.protocol.train_budget_s, unit.input.tile])[:12]


def kind_of(unit: Unit, phase: Phase) -> Kind:
    """Return the kind of a task; tasks of the same kind use the same memory."""
    return unit.detector, settings_of(unit), unit.input.height, unit.input.width, phase


def takes_steps(unit: Unit) -> bool:
    """Return whether training takes a fixed number of optimiser steps, whatever the number of images."""
    return "steps" in unit.config


def row_of(unit: Unit, phase: Phase, usage: ResourceUsage) -> CostRow:
    """Return the cost of one phase of one unit."""
    cpus = max(1, round(usage.cpu_s / usage.seconds)) if usage.seconds else 1
    return CostRow(
        detector=unit.detector,
        settings=settings_of(unit),
        steps=takes_steps(unit),
        height=unit.input.height,
        width=unit.input.width,
        device=usage.device,
        cpus=cpus,
        phase=phase,
        images=usage.images,
        units=1,
        seconds=usage.seconds,
        peak_memory_mb=usage.peak_memory_mb,
        device_memory_mb=usage.device_memory_mb,
    )


def merge_rows(rows: Iterable[CostRow]) -> tuple[CostRow, ...]:
    """Merge the rows of each group into one."""
    merged: dict[tuple[object, ...], CostRow] = {}
    for row in rows:
        same_group = merged.get(row.group)
        merged[row.group] = same_group.merge(row) if same_group else row
    return tuple(merged[group] for group in sorted(merged, key=repr))


def write_costs(run: RunStore, finished: Iterable[tuple[Unit, UnitResult]]) -> None:
    """Store the costs of a run's finished units for other runs; nothing is written if none were recorded."""
    rows = merge_rows(row for unit, result in finished for row in _rows(unit, result))
    if rows:
        run.store.put(f"{FOLDER}{run.name}.json", encode(Costs(own=rows)))


def read_costs(run: RunStore, ledger: Ledger, units: Sequence[Unit]) -> Costs:
    """Read the recorded costs of the finished ones of `units`, from the ledger, and of other runs in the store."""
    others, damaged = _others(run.store, f"{FOLDER}{run.name}.json")
    return Costs(merge_rows(_own(run, ledger, units)), merge_rows(others), damaged)


def _own(run: RunStore, ledger: Ledger, units: Sequence[Unit]) -> Iterator[CostRow]:
    done = ledger.done
    finished = [unit for unit in units if unit.unit_id in done]
    finished = finished[:: -(-len(finished) // OWN_UNITS) or 1]
    cached_run = RunStore(run.store, run.name, ledger.fetch(finished, scores=False))
    for unit in finished:
        if result := cached_run.result(unit):
            yield from _rows(unit, result)


def _others(store: Store, own: str) -> tuple[list[CostRow], tuple[str, ...]]:
    keys = [item.key for item in store.list(FOLDER) if item.key.endswith(".json") and item.key != own]
    with ThreadPoolExecutor(READERS) as pool:
        by_key = list(zip(keys, pool.map(lambda key: _read(store, key), keys), strict=True))
    damaged = tuple(key for key, rows in by_key if rows is None)
    return [row for _, rows in by_key for row in rows or ()], damaged


def _read(store: Store, key: str) -> tuple[CostRow, ...] | None:
    """Return the rows stored at `key`, None if they are damaged."""
    try:
        return decode(Costs, store.get(key), store.uri(key)).own
    except ObjectMissing:
        return ()
    except IntegrityError:
        return None


def _rows(unit: Unit, result: UnitResult) -> Iterator[CostRow]:
    """Return the costs of a unit; not of its share of a training on several lines, which tells nothing about others."""
    shared = {"train"} if unit.together else set()
    return (row_of(unit, phase, usage) for phase, usage in result.spent.items() if phase not in shared)
