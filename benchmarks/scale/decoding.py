"""What a core does for a GPU: decode, read fitted images again from the node's cache, and judge heat maps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.scale.figures import Decoding
from raybench.data.cache import CachedShard, open_cached
from raybench.data.geometry import InputFit, to_source
from raybench.data.pack import PackOptions, pack
from raybench.metrics.descriptors import describe
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.masks import Mask
from raybench.metrics.pixel import PixelMap, PixelSketch
from raybench.metrics.regions import Regions
from raybench.runs.scores import ScoreRow, write_scores
from raybench.store import open_store
from raybench.worker import heatmaps

IMAGES = 16
NETWORK = 256
CASES = ((256, ".png"), (1024, ".png"), (1024, ".jpg"))  # side of the source in pixels, file type
SPOT = 40
BATCH = 16
TYPICAL = 1.0  # heat of a typical OK image


def measure() -> tuple[Decoding, ...]:
    cv2.setNumThreads(1)
    return tuple(_case(side, suffix) for side, suffix in CASES)


def _case(side: int, suffix: str) -> Decoding:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cache").mkdir()
        _write(folder / "images" / "ok", side, suffix)
        lines = open_store(str(folder / "lines"))
        manifest = pack(open_store(str(folder / "images")), lines, "line", PackOptions())
        fit = InputFit("native", NETWORK, NETWORK)
        fitted: list[CachedShard] = []
        decode_s = _cpu_s(
            lambda: fitted.extend(open_cached(lines, manifest, one, fit, folder / "cache") for one in manifest.shards)
        )
        read_s = _cpu_s(lambda: [one.batch(range(len(one))) for one in fitted])
        images = np.concatenate([one.batch(range(len(one))) for one in fitted])
        heat_s, sketch_s = _judge(images, side, fit)
    return Decoding(
        side,
        suffix[1:],
        NETWORK,
        round(IMAGES / decode_s, 1),
        round(IMAGES / read_s),
        round(heat_s / IMAGES * 1e3, 2),
        round(sketch_s / IMAGES * 1e3, 2),
    )


def _write(folder: Path, side: int, suffix: str) -> None:
    """Noise on a smooth ground, the hard case for a decoder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(40, 200, (8, 8, 3), dtype=np.uint8), (side, side))
    for number in range(IMAGES):
        noise = rng.integers(0, 24, (side, side, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03}{suffix}"), cv2.add(ground, noise))


def _judge(images: npt.NDArray[np.uint8], side: int, fit: InputFit) -> tuple[float, float]:
    """CPU seconds of what scoring does with heat maps, and of the sketches of their pixels among them."""
    rng = np.random.default_rng(0)
    maps = rng.gamma(2.0, 1.0, (len(images), NETWORK, NETWORK)).astype(np.float32)
    mask = np.zeros((side, side), bool)
    mask[:SPOT, :SPOT] = True
    prepared = Mask.of(mask)  # once per node, for all models and seeds
    _judge_batches(maps[:1], images, prepared, fit)  # compiles
    heat_s = _cpu_s(lambda: _judge_batches(maps, images, prepared, fit))
    full = [PixelMap(str(at), to_source(heatmap, fit, side, side), prepared) for at, heatmap in enumerate(maps)]
    return heat_s, _cpu_s(lambda: PixelSketch.empty().add(full))


def _judge_batches(maps: npt.NDArray[np.float32], images: npt.NDArray[np.uint8], mask: Mask, fit: InputFit) -> None:
    counts, rows = heatmaps.counts_on("cpu", TYPICAL, 1), []
    for start in range(0, len(maps), BATCH):
        batch = maps[start : start + BATCH]
        frames = [heatmaps.Frame(mask.height, mask.width)] * len(batch)
        for _, chosen, full in heatmaps.at_source(heatmaps.as_stored(batch), range(len(batch)), frames, fit, "cpu"):
            counts.add([str(start + row) for row in chosen], full, [mask] * len(chosen))
    for at, heatmap in enumerate(maps):
        describe(heatmap, images[at], TYPICAL)
        rows.append(ScoreRow(str(at), "line", "model", "detector", 1.0, True, heatmap, mask.height, mask.width))
    for at, heat in enumerate(counts.finish()[1]):
        HeatmapContrast.of(str(at), "ng", heat, mask)
        Regions.of(str(at), "spot", heat.region_peaks, mask)
    write_scores(iter(rows), fit=fit.mode)


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
