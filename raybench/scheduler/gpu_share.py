"""The share of a GPU that a task asks for, from the GPU memory that similar tasks used. Does not use Ray.

The first task of a kind (model, settings, input size, phase) has a whole GPU and reports its peak memory; later tasks
of the kind ask for that much. Only memory counts, because a lack of memory breaks a task, while tasks that share a GPU
merely slow each other down.
"""

from __future__ import annotations

import math

from raybench.config.unit import Unit
from raybench.runs.costs import CostRow, Costs, Kind, kind_of, row_of
from raybench.runs.records import Phase, ResourceUsage

PARTS = 16  # of a GPU: shares are multiples of 1/16, so that equal tasks fill it without a rest
MARGIN = 1.2  # over the peak: the allocator's fragments, a line with larger batches at the end
CONTEXT_MB = 900.0  # of GPU memory that CUDA and its libraries take for each process: 829 on an H100


def share(peak_mb: float, device_mb: float) -> float:
    """Return the share of a GPU for a peak memory, both in 10^6 bytes: sixteenths, rounded up."""
    parts = math.ceil(PARTS * (peak_mb * MARGIN + CONTEXT_MB) / device_mb)
    return min(max(parts, 1), PARTS) / PARTS


def torch_limit(share: float, device_mb: float) -> float:
    """Return the fraction of a GPU's memory that torch may take in a task with this share. CUDA's context comes on top
    of it. A share of 1 has no limit, because other processes may hold some of the memory anyway."""
    if share >= 1:
        return 1.0
    beside_context = share - CONTEXT_MB / device_mb
    return beside_context if beside_context > 0 else share / 2


class GpuShares:
    """Shares by kind of task, which follow what tasks report."""

    def __init__(self, fixed: float | None, device_mb: float | None = None, costs: Costs | None = None) -> None:
        """Start from recorded costs.

        Args:
            fixed: the share of every task, 0 without GPUs. None: by memory.
            device_mb: memory of a GPU (10^6 bytes) where the experiment sets it. None: as tasks report it.
            costs: what earlier units used.
        """
        self.fixed = fixed
        self._device_mb = device_mb
        self._set = device_mb is not None
        self._peaks: dict[Kind, float] = {}
        self._alone: set[Kind] = set()
        for row in (*costs.own, *costs.others) if costs else ():
            self._note(row)

    def of(self, unit: Unit, phase: Phase) -> float:
        """Return the share that a task asks for."""
        if self.fixed is not None:
            return self.fixed
        kind = kind_of(unit, phase)
        peak_mb = self._peaks.get(kind)
        if peak_mb is None or self._device_mb is None or kind in self._alone:
            return 1.0
        return share(peak_mb, self._device_mb)

    def saw(self, unit: Unit, phase: Phase, spent: ResourceUsage) -> None:
        """Learn from a task that has ended."""
        self._note(row_of(unit, phase, spent))

    def out_of_memory_when_shared(self, unit: Unit, phase: Phase) -> None:
        """Give the kind of a task that ran out of memory on a shared GPU whole ones from now on."""
        self._alone.add(kind_of(unit, phase))

    def _note(self, row: CostRow) -> None:
        """Of unequal GPUs the smallest counts, because Ray does not say which one a task will get."""
        if row.peak_memory_mb is not None:
            self._peaks[row.kind] = max(row.peak_memory_mb, self._peaks.get(row.kind, 0.0))
        if row.device_memory_mb is not None and not self._set:
            self._device_mb = min(row.device_memory_mb, self._device_mb or math.inf)
