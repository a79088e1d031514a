"""How busy and how full the GPU is, asked of its driver."""

from __future__ import annotations

import importlib
import threading
import time
from statistics import fmean
from typing import Any

_INTERVAL_S = 0.02


class BusyMeter:
    """Samples the GPU while the block runs: the share of time in which any kernel ran, as NVML tells it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Wall time of the block."""
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def percent(self) -> float | None:
        """Mean of the samples; None without NVML or without a sample."""
        return round(fmean(self._samples), 1) if self._samples else None

    def __enter__(self) -> BusyMeter:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        nvml = _nvml()
        if nvml is None:
            return
        card = nvml.nvmlDeviceGetHandleByIndex(0)
        while not self._stop.wait(_INTERVAL_S):
            self._samples.append(nvml.nvmlDeviceGetUtilizationRates(card).gpu)


def used_mb() -> float:
    """Return the memory of the first GPU that all processes use, in 10^6 bytes. Raises RuntimeError without NVML."""
    nvml = _nvml()
    if nvml is None:
        raise RuntimeError("there is no NVML, or no GPU")
    used: int = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(0)).used
    return used / 1e6


def _nvml() -> Any:
    """Return the driver's module, initialised; None on a machine without one."""
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, no rights: each has an error of its own
        return None
    return pynvml
