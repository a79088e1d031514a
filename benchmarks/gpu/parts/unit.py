"""Units on a packed line of large images with masks, as tasks process them: trained, scored, merged and timed.

The images are decoded before the clock starts, because a node decodes them once for all models. The first shard warms
up, the last one is profiled, and those between are timed. Beside them: the detector alone on the same decoded images.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import versions
from benchmarks.gpu.busy import BusyMeter
from benchmarks.gpu.fitting import synchronize
from benchmarks.gpu.pictures import write_line
from benchmarks.gpu.session import Finding, Session
from raybench.config.experiment import Experiment, InputChoice, ModelChoice
from raybench.config.plan import Plan, make_plan
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.data.pack import PackOptions, pack
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker import merge, timing
from raybench.worker.context import WorkerContext, cached_detector
from raybench.worker.score import score
from raybench.worker.train import train

MODELS = ("dfm", "padim", "patchcore", "efficient_ad")
LINE, RUN = "line", "accept"
PROFILES = "profiles.txt"
_ROWS = 20  # of a profile


@dataclass(frozen=True)
class _Sizes:
    side: int
    train: int
    scored: int
    shard_rows: int


_FULL = _Sizes(1024, 128, 512, 128)
_QUICK = _Sizes(256, 12, 16, 4)


def run(session: Session) -> None:
    """Pack a line, decode it, and process a unit of each model."""
    sizes, cores = _QUICK if session.quick else _FULL, os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        write_line(folder / "images", sizes.side, sizes.train, sizes.scored, cores)
        written = time.perf_counter()
        store = open_store(str(folder / "store"))
        pack(open_store(str(folder / "images")), store.sub("lines"), LINE, PackOptions(shard_rows=sizes.shard_rows))
        packed = time.perf_counter()
        plan = make_plan(_experiment(store.uri(), session))
        (folder / "cache").mkdir()
        manifest, units = plan.manifests[LINE], {unit.model: unit for unit in plan.units}
        for shard in manifest.shards:
            _context(plan, folder, session, cores).cached_shard(plan.units[0], manifest, shard)
        decoded = time.perf_counter()
        seconds = {"write_s": written - started, "pack_s": packed - written, "decode_s": decoded - packed}
        figures = {"images": sizes.scored, "shards": len(manifest.scored_shards), **_rounded(seconds)}
        session.note("unit", "line", Finding(None, figures))
        context = _context(plan, folder, session, session.threads)
        session.check("unit", units, lambda model: _process(units[model], manifest, context, session))


def _experiment(store: str, session: Session) -> Experiment:
    return Experiment(
        name=RUN,
        store=store,
        lines=(LINE,),
        models=tuple(ModelChoice(name=name) for name in session.chosen(MODELS)),
        preset="cpu" if session.quick else "paper",
        train_budget_s=session.seconds,
        false_alarm_budget=0.2,  # finite thresholds with few images
        input=InputChoice(pixels=256 * 256),
    )


def _context(plan: Plan, folder: Path, session: Session, threads: int) -> WorkerContext:
    gpus = 1.0 if session.device == "cuda" else 0.0
    run_store, lines = RunStore(plan.store, RUN), plan.store.sub("lines")
    batch = versions.largest_batch(session.device)
    return WorkerContext(
        run_store, lines, folder / "cache", session.device, threads, batch=batch, measure_s=1.0, gpus=gpus
    )


def _process(unit: Unit, manifest: Manifest, context: WorkerContext, session: Session) -> Finding:
    with BusyMeter() as training:
        trained = train(unit, manifest, context)
    first, *timed, profiled = manifest.scored_shards
    started = time.perf_counter()
    score(unit, manifest, first, context)
    warm_up_s = time.perf_counter() - started
    with BusyMeter() as scoring:
        records = versions.score_shards(unit, manifest, timed, context)
    images = sum(record.rows for record in records)
    profiler = cProfile.Profile()
    profiler.runcall(score, unit, manifest, profiled, context)
    _write_profile(profiler, unit.model, session)
    alone, busy_alone = _alone(unit, trained, manifest, context)
    merged = merge.merge(unit, manifest, context.run, merge.Partials()).quality
    speed = timing.measure(unit, manifest, context).speed
    rate = images / scoring.seconds
    figures = {
        "images_s": round(rate, 1),
        "busy": scoring.percent,
        "alone_images_s": round(alone, 1),
        "alone_busy": busy_alone,
        "ratio": round(rate / alone, 3),
        "warm_up_s": round(warm_up_s, 2),
        "train_s": round(trained.train_s, 2),
        "train_task_s": round(training.seconds, 2),
        "train_busy": training.percent,
        "peak_mb": records[0].spent and records[0].spent.peak_memory_mb,
        "timing": {"images_s": round(speed.images_per_s), "batch": speed.batch, "p50_ms": round(speed.p50_ms, 2)},
    }
    numbers = {name: getattr(merged, name).value for name in ("image_auroc", "pixel_auroc", "au_pro")}
    return Finding(True, {**figures, **numbers})


def _alone(unit: Unit, trained: TrainRecord, manifest: Manifest, context: WorkerContext) -> tuple[float, float | None]:
    """Return images per second and busy % of the detector alone, on decoded images in the batches of a task."""
    detector = cached_detector(unit, trained, context)
    shards = [context.cached_shard(unit, manifest, shard) for shard in manifest.scored_shards]
    pixels = np.concatenate([shard.batch(range(len(shard))) for shard in shards])
    batches = [pixels[start : start + context.batch] for start in range(0, len(pixels), context.batch)]
    detector.score(batches[0])
    synchronize(context.device)
    with BusyMeter() as busy:
        for batch in batches:
            detector.score(batch)
        synchronize(context.device)
    return len(pixels) / busy.seconds, busy.percent


def _write_profile(profiler: cProfile.Profile, model: str, session: Session) -> None:
    """Append the main thread's profile of one shard: the functions that took the longest themselves."""
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(_ROWS)
    with (session.out / PROFILES).open("a", encoding="utf-8") as file:
        file.write(f"{session.label} {model}\n{text.getvalue()}\n")


def _rounded(seconds: dict[str, float]) -> dict[str, Any]:
    return {name: round(value, 1) for name, value in seconds.items()}
