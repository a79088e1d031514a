"""A detector for tests and benchmarks: distance to the mean OK image at low resolution, and faults on demand."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from raybench.detectors.protocol import Detector, FitContext, Images, Scored, TrainImages
from raybench.errors import LineError, ModelError

Phase = Literal["none", "fit", "score"]

_BATCH = 32
_NOISE = 1.0  # grey levels added to every standard deviation: that of a constant pixel is 0


@dataclass(frozen=True)
class Settings:
    """The `config` of an experiment's model. All but `grid` inject faults."""

    grid: int = 32
    """Side of the low-resolution mean image."""
    fail_in: Phase = "none"
    """The phase in which to raise ModelError."""
    hang_in: Phase = "none"
    """The phase in which to wait forever."""
    kill_in: Phase = "none"
    """The phase in which to kill the process."""
    kill_once_marker: str = ""
    """A file that limits `kill_in` to one time: the process is killed only if the file does not exist yet."""
    nan_in_score: bool = False
    """Whether all scores are NaN."""
    wrong_shape: bool = False
    """Whether scores have a wrong shape."""
    poison_above: int | None = None
    """Heat maps are infinite for images with a pixel brighter than this."""
    sleep_s: float = 0.0
    """Seconds to sleep in every phase."""
    mb_per_image: float = 0.0
    """Memory to take per image of a batch, in MiB."""
    memory_mb: float = 64.0
    """Memory limit for `mb_per_image`, in MiB."""
    leak_mb_per_image: float = 0.0
    """Memory that each scored image takes for good, in MiB."""
    count_fits_in: str = ""
    """A folder that gets a file for each training."""
    gpu_memory_mb: float = 0.0
    """GPU memory that the detector claims to take, in 10^6 bytes."""


class Fake(Detector):
    """Distance to the mean OK image, in standard deviations."""

    min_side = 2

    def __init__(self, config: Mapping[str, Any], height: int, width: int, context: FitContext) -> None:
        super().__init__(config, height, width, context)
        self.gpu_memory_mb = self.settings.gpu_memory_mb
        self._mean = self._deviation = np.empty((0, 0, 3), np.float32)

    @property
    def settings(self) -> Settings:
        return Settings(**self.config)

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Compute mean and standard deviation of every cell. Raises LineError without images."""
        if len(images) == 0:
            raise LineError("fake needs at least one OK image")
        self._misbehave("fit")
        if self.settings.count_fits_in:
            Path(self.settings.count_fits_in, uuid.uuid4().hex).touch()
        shape = (*self._grid(), 3)
        total, squares = np.zeros(shape), np.zeros(shape)
        for start in range(0, len(images), _BATCH):
            for cell in self._shrink(images.batch(range(start, min(start + _BATCH, len(images))))):
                total += cell
                squares += np.square(cell, dtype=np.float64)
        mean = total / len(images)
        variance = np.maximum(squares / len(images) - mean**2, 0)
        self._mean, self._deviation = mean.astype(np.float32), np.sqrt(variance).astype(np.float32)

    def score(self, images: Images) -> Scored:
        """Return the largest deviation of the channels as heat map, and its maximum as score."""
        if self._mean.size == 0:
            raise ModelError("fake is neither fitted nor restored")
        if images.dtype != np.uint8 or images.shape[1:] != (self.height, self.width, 3):
            raise ModelError(f"expected (B, {self.height}, {self.width}, 3) uint8, got {images.shape} {images.dtype}")
        self._misbehave("score")
        deviation = np.abs(self._shrink(images) - self._mean) / (self._deviation + _NOISE)
        cells = deviation.max(axis=3).astype(np.float32)
        scores = cells.reshape(len(images), -1).max(axis=1).astype(np.float64)
        size = (self.width, self.height)
        maps = [cv2.resize(cell, size, interpolation=cv2.INTER_LINEAR) for cell in cells]
        heatmaps = np.array(maps, np.float32).reshape(len(images), self.height, self.width)
        return self._with_faults(scores, heatmaps, images)

    def _with_faults(self, scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32], images: Images) -> Scored:
        """Replace scores and heat maps by the faulty ones of the settings."""
        chosen = self.settings
        if chosen.nan_in_score:
            scores[:] = np.nan
        if chosen.poison_above is not None:
            maps[images.max(axis=(1, 2, 3)) > chosen.poison_above] = np.inf
        if chosen.wrong_shape:
            scores = scores[:, np.newaxis]
        if chosen.mb_per_image:
            _allocate(chosen.mb_per_image * len(images), chosen.memory_mb)
        if chosen.leak_mb_per_image:
            _leaked.append(np.ones(int(chosen.leak_mb_per_image * len(images) * 2**20), np.uint8))
        return Scored(scores, maps)

    def _grid(self) -> tuple[int, int]:
        return min(self.settings.grid, self.height), min(self.settings.grid, self.width)

    def _shrink(self, images: Images) -> npt.NDArray[np.float32]:
        height, width = self._grid()
        small = [
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) for image in images
        ]
        return np.array(small, np.float32).reshape(len(images), height, width, 3)

    def _misbehave(self, phase: str) -> None:
        chosen = self.settings
        if chosen.sleep_s:
            time.sleep(chosen.sleep_s)
        if chosen.hang_in == phase:
            threading.Event().wait()
        if chosen.kill_in == phase and self._may_kill():
            os.kill(os.getpid(), signal.SIGKILL)
        if chosen.fail_in == phase:
            raise ModelError(f"fake was told to fail in {phase}")

    def _may_kill(self) -> bool:
        """Return whether this is the first call, if only the first may kill: the marker file is created by it."""
        if not self.settings.kill_once_marker:
            return True
        try:
            Path(self.settings.kill_once_marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


_leaked: list[npt.NDArray[np.uint8]] = []


def _allocate(megabytes: float, limit_mb: float) -> None:
    """Allocate memory and free it. Above `limit_mb` the allocator raises MemoryError."""
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space + int(limit_mb * 2**20), before[1]))
    try:
        np.ones(int(megabytes * 2**20), np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
