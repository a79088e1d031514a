"""Measure one trained detector: its speed with the device to itself, and its size.

The caller keeps the device idle; on further GPUs of the machine others may be timed, each with cores of its own.
Programs outside raybench may still use the CPU: what they take of this process's cores is recorded, and a measurement
that they disturbed is repeated. If all attempts on a CPU are disturbed, times are estimated from CPU time.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import psutil

from raybench.config.unit import Unit
from raybench.data.geometry import to_network
from raybench.data.line import decode_inside
from raybench.data.manifest import Manifest
from raybench.data.shards import read_rows
from raybench.errors import IntegrityError
from raybench.metrics.numbers import Speed
from raybench.metrics.timing import TimingOptions, cpu_name, estimate_idle_speed, measure_speed
from raybench.runs.records import MeasureRecord, ModelSize, TrainRecord
from raybench.worker.context import UsageMeter, WorkerContext, cached_detector, fit_of

IMAGES = 16
LARGEST_BATCH = {"cpu": 8, "cuda": 256}
LONGEST_WARM_UP_S = 1.0
ATTEMPTS = 3


class BackgroundLoad:
    """Share of this process's cores that other programs use, measured from construction on.

    Args:
        cores: Cores of this process. Others may use the rest, as those do that time detectors on further GPUs of the
            machine. None: all of the machine.
    """

    def __init__(self, cores: int | None = None) -> None:
        self._all = psutil.cpu_count() or 1
        self._own = min(cores or self._all, self._all)
        self._started, self._before = time.monotonic(), _other_cpu_s()

    def share(self) -> float:
        """Return the share so far: 0 if this process had its cores to itself, 1 if others used all of them."""
        used = (_other_cpu_s() - self._before) / (time.monotonic() - self._started)
        return min(1.0, max(0.0, (used - (self._all - self._own)) / self._own))


def measure(unit: Unit, manifest: Manifest, context: WorkerContext) -> MeasureRecord:
    """Time the unit's detector on images of its line and commit the record; return a record that is committed already.

    Raises IntegrityError when the unit is not trained.
    """
    if done := context.run.read(unit.detector_id, unit.measure_name, MeasureRecord):
        return done
    meter = UsageMeter(context)
    trained = context.run.read(unit.detector_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: measured before it was trained")
    shard = (*manifest.scored_shards, *manifest.shards)[0]
    rows = list(itertools.islice(read_rows(context.lines, shard), IMAGES))
    detector = cached_detector(unit, trained, context, alone=True)

    def prepare(index: int) -> npt.NDArray[np.uint8]:
        return to_network(decode_inside(rows[index % len(rows)], manifest), fit_of(unit))[np.newaxis]

    options = _options(context)
    _use_threads(context.threads)
    speed = time_when_idle(lambda: measure_speed(detector.score, prepare, options), ATTEMPTS * context.measure_s)
    if speed.is_disturbed and context.device == "cpu":
        on_one_thread = cached_detector(unit, trained, replace(context, threads=1), alone=True)
        _use_threads(1)
        speed = estimate_idle_speed(speed, on_one_thread.score, prepare, options)
        _use_threads(context.threads)
    disk_mb = sum(blob.size for blob in trained.model.values()) / 1e6
    record = MeasureRecord(
        detector_id=unit.detector_id,
        speed=speed,
        size=ModelSize(disk_mb, trained.parameters, trained.memory_bank),
        spent=meter.read(len(rows), detector),
    )
    return context.run.commit(unit.detector_id, unit.measure_name, record)


def _options(context: WorkerContext) -> TimingOptions:
    """Return how to time on the context's device, and start a measurement of its peak memory."""
    on_cpu = TimingOptions(
        device=cpu_name(),
        threads=context.threads,
        batch=LARGEST_BATCH[context.device],
        budget_s=context.measure_s,
        warmup_s=min(LONGEST_WARM_UP_S, context.measure_s / 2),
        watch_load=lambda: BackgroundLoad().share,
    )
    if context.device == "cpu":
        return on_cpu
    from raybench.detectors import device  # a CPU task may not need torch, which takes seconds to import

    device.give_back_memory(context.device)
    device.reset_peak_memory(context.device)
    return replace(
        on_cpu,
        device=device.describe(context.device),
        synchronize=lambda: device.synchronize(context.device),
        peak_memory_mb=lambda: device.peak_memory_mb(context.device),
        watch_load=lambda: BackgroundLoad(context.threads).share,
    )


def _use_threads(count: int) -> None:
    """Set the number of CPU threads of a detector that computes with torch, which it has imported by now."""
    if "torch" in sys.modules:
        from raybench.detectors import device

        device.use_threads(count)


def time_when_idle(take: Callable[[], Speed], patience_s: float, clock: Callable[[], float] = time.monotonic) -> Speed:
    """Repeat a measurement until other programs leave the machine idle, at most ATTEMPTS times.

    A worker that ends or a server that cleans up keeps the machine busy for some seconds. A machine that is still busy
    afterwards would only triple the time that a slow model's measurement takes, so the time for attempts is limited.

    Args:
        take: Measures once.
        patience_s: Time limit in seconds; no attempt starts after it, except the first.
        clock: Monotonic time in seconds.

    Returns:
        The first measurement that is not disturbed, or the one with the lowest load.
    """
    measured: list[Speed] = []
    end = clock() + patience_s
    while len(measured) < ATTEMPTS and (not measured or clock() < end):
        measured.append(take())
        if not measured[-1].is_disturbed:
            break
    return min(measured, key=lambda speed: speed.other_load)


def _other_cpu_s() -> float:
    """CPU seconds that the whole machine has used since it started, minus those of this process."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return float(sum(machine) - idle - own.user - own.system)
