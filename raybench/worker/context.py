"""Where a unit is worked on: its run and lines, this node's decode cache, the device, and the detectors kept hot."""

from __future__ import annotations

import os
import stat
import tempfile
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
from raybench.runs.records import TrainRecord
from raybench.runs.run import Run
from raybench.store import Store

CACHED_DETECTORS = 2
MAX_BATCH = 16


@dataclass(frozen=True)
class WorkerContext:
    """lines: the store of packed lines. device: torch name ("cpu", "cuda"). threads: CPU threads of this task.
    weights_store: of pretrained files, where one is named. batch: images scored at once, at most.
    measure_s: of timing. gpus: share of a GPU of this task. helped: nodes without a GPU decode for this one."""

    run: Run
    lines: Store
    cache_dir: Path
    device: str
    threads: int
    weights_store: Store | None = None
    batch: int = MAX_BATCH
    measure_s: float = 2.0
    gpus: float = 0.0
    helped: bool = False

    def context(self, unit: Unit) -> FitContext:
        """How to train the unit, its pretrained weights fetched to this node."""
        files = weights.fetch(unit.weights, self.weights_store, self.cache_dir)
        return FitContext(unit.seed, self.device, self.threads, unit.protocol.train_budget_s, files)

    def fitted(self, unit: Unit, manifest: Manifest, shard: ShardInfo) -> CachedShard:
        """The shard's images at the unit's network size, decoded once per node for all models of that size."""
        ahead = self.run.ahead if self.helped else None
        return open_cached(self.lines, manifest, shard, fit_of(unit), self.cache_dir, self.threads, ahead)


def node_cache() -> Path:
    """This user's cache folder on this node: $RAYBENCH_CACHE, or one below the temporary folder.

    Raises RaybenchError when somebody else owns it: cached images would be theirs to choose.
    """
    chosen = os.environ.get("RAYBENCH_CACHE")
    path = Path(chosen) if chosen else Path(tempfile.gettempdir(), f"raybench-{os.getuid()}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise RaybenchError(f"{path} is not a folder of this user; set RAYBENCH_CACHE to one that is")
    return path


def fit_of(unit: Unit) -> InputFit:
    return InputFit(unit.input.mode, unit.input.height, unit.input.width)


def size_of(unit: Unit) -> registry.InputSize:
    return registry.InputSize(unit.input.height, unit.input.width, unit.input.tile)


_hot: OrderedDict[tuple[str, ...], Detector] = OrderedDict()


def use_gpu(number: int) -> None:
    """Work on this GPU of the node from now on. What lies on another gives its memory back."""
    from raybench.detectors import device

    before = device.exact("cuda")
    device.use_gpu(number)
    if device.exact("cuda") != before:
        _hot.clear()
        device.give_back_memory("cuda")


def cached_detector(unit: Unit, trained: TrainRecord, site: WorkerContext) -> Detector:
    """The unit's trained detector; the last few stay loaded in this process."""
    key = (*sorted(blob.sha256 for blob in trained.model.values()), site.device, str(site.threads))
    if key not in _hot:
        with tempfile.TemporaryDirectory(dir=site.cache_dir) as folder:
            for name, blob in trained.model.items():
                Path(folder, name).write_bytes(site.run.get_blob(blob))
            _hot[key] = registry.load(Path(folder), site.device, site.threads)
    _hot.move_to_end(key)
    while len(_hot) > CACHED_DETECTORS:
        _hot.popitem(last=False)
    return _hot[key]
