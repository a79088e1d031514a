"""The context in which a worker processes a unit: run, lines, decode cache, device, detectors in memory, and usage."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from raybench.config.unit import Unit
from raybench.data.cache import CachedShard, open_cached
from raybench.data.geometry import InputFit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.detectors import registry, weights
from raybench.detectors.protocol import Detector, FitContext
from raybench.errors import RaybenchError
from raybench.runs.records import FitRecord, ResourceUsage
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.worker.batches import MAX_BATCH

CACHED_DETECTORS = 2


@dataclass(frozen=True)
class WorkerContext:
    """What a task gets besides the unit: stores, cache, device and limits."""

    run: RunStore
    """The run that holds the unit's commits."""
    lines: Store
    """Store of the packed lines."""
    cache_dir: Path
    """Folder of decoded images and weights on this node."""
    device: str
    """Torch's name of the device: "cpu" or "cuda"."""
    threads: int
    """CPU threads of this task."""
    weights_store: Store | None = None
    """Store of pretrained weights. None if the experiment names none."""
    batch: int = MAX_BATCH["cpu"]
    """Images per batch when scoring, at most."""
    measure_s: float = 2.0
    """Time budget of one timing measurement, in seconds."""
    gpus: float = 0.0
    """GPUs of this task; a share if several tasks use one GPU."""
    helped: bool = False
    """True if nodes without a GPU decode images ahead for this one."""

    @property
    def counting_device(self) -> str:
        """Where heat maps are counted: the device, but the CPU where torch cannot use the GPU of another library."""
        if self.device == "cpu":
            return "cpu"
        from raybench.detectors import device  # a CPU task may not need torch, which takes seconds to import

        return self.device if device.is_usable(self.device) else "cpu"

    def fit_context(self, unit: Unit) -> FitContext:
        """Return the unit's training parameters, with its pretrained weights fetched to this node."""
        files = weights.fetch(unit.weights, self.weights_store, self.cache_dir)
        return FitContext(unit.seed, self.device, self.threads, unit.protocol.train_budget_s, files)

    def cached_shard(self, unit: Unit, manifest: Manifest, shard: ShardInfo) -> CachedShard:
        """Open the shard's images at the unit's network size, decoded once per node for all models of that size."""
        ahead = self.run.ahead if self.helped else None
        return open_cached(self.lines, manifest, shard, fit_of(unit), self.cache_dir, self.threads, ahead)


def node_cache() -> Path:
    """Create and return this user's cache folder on this node: $RAYBENCH_CACHE, or one in the temporary folder.

    Raises RaybenchError when another user owns the folder, because that user could replace the cached images.
    """
    configured = os.environ.get("RAYBENCH_CACHE")
    path = Path(configured) if configured else Path(tempfile.gettempdir(), f"raybench-{os.getuid()}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RaybenchError(f"{path} is not a folder of this user; set RAYBENCH_CACHE to one that is")
    return path


def fit_of(unit: Unit) -> InputFit:
    """Return how the unit's images are resized for its network."""
    return InputFit(unit.input.mode, unit.input.height, unit.input.width)


def size_of(unit: Unit) -> registry.InputSize:
    """Return the input size of the unit's network, tiles included."""
    return registry.InputSize(unit.input.height, unit.input.width, unit.input.tile)


loaded_detectors: OrderedDict[tuple[str, ...], Detector] = OrderedDict()
"""The detectors in this process's memory, the least recently used first."""


def use_gpu(number: int) -> None:
    """Use this GPU of the node from now on. Detectors on another GPU are dropped and their memory is freed."""
    from raybench.detectors import device

    before = device.exact("cuda")
    device.use_gpu(number)
    if device.exact("cuda") != before:
        loaded_detectors.clear()
        device.give_back_memory("cuda")


def cached_detector(unit: Unit, trained: FitRecord, context: WorkerContext, *, alone: bool = False) -> Detector:
    """Return the unit's trained detector; the CACHED_DETECTORS used last stay in the memory of this process.

    Args:
        unit: The unit.
        trained: Its commit.
        context: The worker's.
        alone: Drop all other detectors, so that the memory in use is this one's.
    """
    key = (*sorted(blob.sha256 for blob in trained.model.values()), context.device, str(context.threads))
    if key not in loaded_detectors:
        with tempfile.TemporaryDirectory(dir=context.cache_dir) as folder:
            for name, blob in trained.model.items():
                Path(folder, name).write_bytes(context.run.get_blob(blob))
            loaded_detectors[key] = registry.load(Path(folder), context.device, context.threads)
    loaded_detectors.move_to_end(key)
    while len(loaded_detectors) > (1 if alone else CACHED_DETECTORS):
        loaded_detectors.popitem(last=False)
    return loaded_detectors[key]


class UsageMeter:
    """Measures the resource usage of a task from construction on."""

    def __init__(self, context: WorkerContext) -> None:
        self.context, self.started = context, time.perf_counter()
        if context.device != "cpu":
            from raybench.detectors import device  # importing torch takes seconds, and a CPU task may not need it

            device.give_back_memory(context.device)
            device.reset_peak_memory(context.device)

    def read(self, images: int, detector: Detector) -> ResourceUsage:
        """Return the usage since construction or the last call; `images` is the number of images processed."""
        peak_mb, total_mb = self._memory_mb(detector)
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        cpu_s, gpu_s = seconds * self.context.threads, seconds * self.context.gpus
        return ResourceUsage(seconds, images, cpu_s, gpu_s, self.context.device, peak_mb, total_mb)

    def _memory_mb(self, detector: Detector) -> tuple[float | None, float | None]:
        """Return the peak of GPU memory held and the GPU's total; None where unknown."""
        if self.context.device == "cpu":
            return None, None
        from raybench.detectors import device

        held_mb = device.held_memory_mb(self.context.device)
        total_mb = device.total_memory_mb(self.context.device)
        outside_torch_mb: float = getattr(detector, "gpu_memory_mb", 0.0)
        if held_mb is None and not outside_torch_mb:
            return None, total_mb
        return (held_mb or 0.0) + outside_torch_mb, total_mb
