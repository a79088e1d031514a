"""Which share of a GPU a task asks for, by the memory that tasks like it were seen to hold. Knows no Ray.

The first task of a kind (model, settings, input size, phase) has a whole GPU and tells how much memory it held; those
that come after ask for that much. Memory is what breaks a task; that tasks on one GPU slow each other down does not.
"""

from __future__ import annotations

import math

from raybench.config.unit import Unit
from raybench.runs.costs import CostRow, Costs, Kind, kind_of, row_of
from raybench.runs.records import Phase, ResourceUsage

PARTS = 16  # of a GPU: shares are multiples of 1/16, so that equal tasks fill it without a rest
MARGIN = 1.2  # over the peak: the allocator's fragments, a line with larger batches at the end
CONTEXT_MB = 600.0  # of GPU memory that CUDA takes for each process, which torch does not count


def share(peak_mb: float, device_mb: float) -> float:
    """The share of a GPU of `device_mb` that a task needs which held `peak_mb` (10^6 bytes): sixteenths, rounded up."""
    parts = math.ceil(PARTS * (peak_mb * MARGIN + CONTEXT_MB) / device_mb)
    return min(max(parts, 1), PARTS) / PARTS


class GpuShares:
    """fixed: the share that the experiment sets for all (0 without GPUs); None: by memory. device_mb: memory of a GPU
    where the experiment says it. costs: what earlier units held."""

    def __init__(self, fixed: float | None, device_mb: float | None = None, costs: Costs | None = None) -> None:
        self.fixed = fixed
        self._device_mb = device_mb
        self._set = device_mb is not None
        self._peaks: dict[Kind, float] = {}
        self._alone: set[Kind] = set()
        for row in (*costs.own, *costs.others) if costs else ():
            self._note(row)

    def of(self, unit: Unit, phase: Phase) -> float:
        """What a task asks for."""
        if self.fixed is not None:
            return self.fixed
        kind = kind_of(unit, phase)
        peak_mb = self._peaks.get(kind)
        if peak_mb is None or self._device_mb is None or kind in self._alone:
            return 1.0
        return share(peak_mb, self._device_mb)

    def saw(self, unit: Unit, phase: Phase, spent: ResourceUsage) -> None:
        """A task has ended."""
        self._note(row_of(unit, phase, spent))

    def out_of_memory_when_shared(self, unit: Unit, phase: Phase) -> None:
        """A task ran out of memory on a GPU that it shared: from now on its kind has one to itself."""
        self._alone.add(kind_of(unit, phase))

    def _note(self, row: CostRow) -> None:
        """Of unequal GPUs the smallest counts: Ray does not say which of them a task will get."""
        if row.peak_memory_mb is not None:
            self._peaks[row.kind] = max(row.peak_memory_mb, self._peaks.get(row.kind, 0.0))
        if row.device_memory_mb is not None and not self._set:
            self._device_mb = min(row.device_memory_mb, self._device_mb or math.inf)
