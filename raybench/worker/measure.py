"""Measure one trained detector: speed with the device to itself, and size. The caller keeps the device idle."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Unit
from raybench.data.decode import decode_image
from raybench.data.geometry import to_network
from raybench.data.manifest import Manifest
from raybench.data.shards import read_rows
from raybench.detectors import device
from raybench.errors import IntegrityError
from raybench.metrics.timing import TimingOptions, measure_speed
from raybench.runs.records import MeasureRecord, ModelSize, TrainRecord
from raybench.worker.background_load import ATTEMPTS, time_when_idle
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.usage import UsageMeter

IMAGES = 16
LARGEST_BATCH = {"cpu": 8, "cuda": 256}
LONGEST_WARM_UP_S = 1.0


def measure(unit: Unit, manifest: Manifest, site: WorkerContext) -> MeasureRecord:
    """Time the unit's detector on images of its line and commit; a committed record is returned as it stands."""
    if done := site.run.read(unit.unit_id, "measure", MeasureRecord):
        return done
    meter = UsageMeter(site)
    trained = site.run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: measured before it was trained")
    shard = (*manifest.scored_shards, *manifest.shards)[0]
    encoded = [row.image for row in itertools.islice(read_rows(site.lines, shard), IMAGES)]
    detector = cached_detector(unit, trained, site)

    def prepare(index: int) -> npt.NDArray[np.uint8]:
        image = decode_image(encoded[index % len(encoded)], manifest.white_level)
        return to_network(image, fit_of(unit))[np.newaxis]

    device.use_threads(site.threads)
    device.reset_peak_memory(site.device)
    options = TimingOptions(
        device=device.describe(site.device),
        threads=site.threads,
        batch=LARGEST_BATCH[site.device],
        budget_s=site.measure_s,
        warmup_s=min(LONGEST_WARM_UP_S, site.measure_s / 2),
        synchronize=lambda: device.synchronize(site.device),
        peak_memory_mb=lambda: device.peak_memory_mb(site.device),
    )
    disk_mb = sum(blob.size for blob in trained.model.values()) / 1e6
    record = MeasureRecord(
        unit_id=unit.unit_id,
        speed=time_when_idle(lambda: measure_speed(detector.score, prepare, options), ATTEMPTS * site.measure_s),
        size=ModelSize(disk_mb, trained.parameters, trained.memory_bank),
        spent=meter.read(len(encoded), detector),
    )
    return site.run.commit(unit.unit_id, "measure", record)
