"""Measure one trained detector: its speed with the device to itself, and its size.

The caller keeps the device idle. Programs outside raybench may still use the CPU: their share of it is recorded, and a
measurement that they disturbed is repeated.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import psutil

from raybench.config.unit import Unit
from raybench.data.decode import decode_image
from raybench.data.geometry import to_network
from raybench.data.manifest import Manifest
from raybench.data.shards import read_rows
from raybench.detectors import device
from raybench.errors import IntegrityError
from raybench.metrics.numbers import Speed
from raybench.metrics.timing import TimingOptions, measure_speed
from raybench.runs.records import MeasureRecord, ModelSize, TrainRecord
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.usage import UsageMeter

IMAGES = 16
LARGEST_BATCH = {"cpu": 8, "cuda": 256}
LONGEST_WARM_UP_S = 1.0
IDLE_LOAD, ATTEMPTS = 0.1, 3


class BackgroundLoad:
    """Share of the machine's cores that programs other than this process use, measured from construction on."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), _other_cpu_s()

    def share(self) -> float:
        """Return the share so far: 0 if this process had the machine to itself, 1 if others used all cores."""
        available_s = (time.monotonic() - self._started) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (_other_cpu_s() - self._before) / available_s))


def measure(unit: Unit, manifest: Manifest, context: WorkerContext) -> MeasureRecord:
    """Time the unit's detector on images of its line and commit the record; return a record that is committed already.

    Raises IntegrityError when the unit is not trained.
    """
    if done := context.run.read(unit.unit_id, "measure", MeasureRecord):
        return done
    meter = UsageMeter(context)
    trained = context.run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: measured before it was trained")
    shard = (*manifest.scored_shards, *manifest.shards)[0]
    encoded = [row.image for row in itertools.islice(read_rows(context.lines, shard), IMAGES)]
    detector = cached_detector(unit, trained, context, alone=True)

    def prepare(index: int) -> npt.NDArray[np.uint8]:
        image = decode_image(encoded[index % len(encoded)], manifest.white_level, manifest.black_level)
        return to_network(image, fit_of(unit))[np.newaxis]

    device.use_threads(context.threads)
    device.give_back_memory(context.device)
    device.reset_peak_memory(context.device)
    options = TimingOptions(
        device=device.describe(context.device),
        threads=context.threads,
        batch=LARGEST_BATCH[context.device],
        budget_s=context.measure_s,
        warmup_s=min(LONGEST_WARM_UP_S, context.measure_s / 2),
        synchronize=lambda: device.synchronize(context.device),
        peak_memory_mb=lambda: device.peak_memory_mb(context.device),
    )
    disk_mb = sum(blob.size for blob in trained.model.values()) / 1e6
    record = MeasureRecord(
        unit_id=unit.unit_id,
        speed=time_when_idle(lambda: measure_speed(detector.score, prepare, options), ATTEMPTS * context.measure_s),
        size=ModelSize(disk_mb, trained.parameters, trained.memory_bank),
        spent=meter.read(len(encoded), detector),
    )
    return context.run.commit(unit.unit_id, "measure", record)


def time_when_idle(
    take: Callable[[], Speed],
    patience_s: float,
    watch: Callable[[], BackgroundLoad] = BackgroundLoad,
    clock: Callable[[], float] = time.monotonic,
) -> Speed:
    """Repeat a measurement until the background load is low, at most ATTEMPTS times.

    A worker that ends or a server that cleans up keeps the machine busy for some seconds. A machine that is still busy
    afterwards would only triple the time that a slow model's measurement takes, so the time for attempts is limited.

    Args:
        take: Measures once.
        patience_s: Time limit in seconds; no attempt starts after it, except the first.
        watch: Starts to measure the background load.
        clock: Monotonic time in seconds.

    Returns:
        The first measurement with a background load below IDLE_LOAD, or the one with the lowest load. Its `other_load`
        is that load.
    """
    measured: list[Speed] = []
    end = clock() + patience_s
    while len(measured) < ATTEMPTS and (not measured or clock() < end):
        load = watch()
        measured.append(replace(take(), other_load=load.share()))
        if measured[-1].other_load < IDLE_LOAD:
            break
    return min(measured, key=lambda speed: speed.other_load)


def _other_cpu_s() -> float:
    """CPU seconds that the whole machine has used since it started, minus those of this process."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return float(sum(machine) - idle - own.user - own.system)
