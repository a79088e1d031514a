"""Scoring on one core: the whole task, from decoded images to committed scores, beside the bare loop over the model.

The bare loop reads the same decoded images in the same batches and calls `Detector.score`, nothing else. Images and
masks are decoded once per node, by the first unit; the table is of a later one.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from raybench.config.experiment import Experiment, ModelChoice
from raybench.config.plan import make_plan
from raybench.data.pack import PackOptions, pack
from raybench.runs.run import RunStore
from raybench.store import open_store
from raybench.worker import score, train
from raybench.worker.batches import MAX_BATCH
from raybench.worker.context import WorkerContext, cached_detector

IMAGES = 32  # of each kind: to train on, OK to score, NG to score
DEFECT = 20  # the side of an image over the radius of its defect
STAGES = {
    "model": ("score", "torch_detector.py"),
    "judge": ("_judge", "score.py"),
    "describe": ("describe", "descriptors.py"),
    "rows": ("_record", "scores.py"),
    "put": ("put_blob", "run.py"),
}


@dataclass(frozen=True)
class Case:
    """The images of one table row."""

    side: int
    """Height and width of the source images, in pixels."""
    suffix: str = ".png"
    """Format of the source images."""
    masks: bool = True
    """Whether NG images have masks."""


CASES = (Case(256), Case(1024), Case(2048), Case(1024, ".jpg"), Case(1024, masks=False))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--models", nargs="+", default=["dfm", "padim", "patchcore"])
    arguments.add_argument("--sides", nargs="+", type=int, help="only these source sizes")
    chosen = arguments.parse_args()
    cv2.setNumThreads(1)
    stages = "".join(f"{name:>10}" for name in STAGES)
    print(f"{'model':12}{'source':>14}{'masks':>7}{'bare':>8}{'task':>8}{'ratio':>7}   of the task, profiled:{stages}")
    for case in CASES:
        if chosen.sides and case.side not in chosen.sides:
            continue
        with tempfile.TemporaryDirectory() as folder:
            _pack(Path(folder), case)
            for model in chosen.models:
                print(f"{model:12}{case.side:>9}{case.suffix:>5}{'yes' if case.masks else 'no':>7}", end="")
                print(_row(Path(folder), model), flush=True)
    print("CPU milliseconds per image on one core")


def _row(root: Path, model: str) -> str:
    """Score with three trained units: to warm up, to time and to profile."""
    experiment = Experiment(
        name=model,
        store=str(root / "store"),
        lines=("line",),
        models=(ModelChoice(name=model),),
        seeds=(0, 1, 2),
        preset="cpu",
        false_alarm_budget=0.2,
        squashed_twins=False,
    )
    plan = make_plan(experiment)
    run, manifest = RunStore.of(plan), plan.manifests["line"]
    run.freeze(plan.experiment.to_yaml(), plan.experiment.digest)
    cache = root / f"cache-{model}"
    cache.mkdir()
    context = WorkerContext(run, plan.lines_of("line"), cache, "cpu", 1)
    warm, timed, profiled = plan.units
    trained = [train.train(unit, manifest, context) for unit in plan.units][1]
    images = [context.cached_shard(timed, manifest, shard) for shard in manifest.scored_shards]
    detector, count = cached_detector(timed, trained, context), sum(map(len, images))

    def task(unit: object) -> Callable[[], object]:
        return lambda: [score.score(unit, manifest, shard, context) for shard in manifest.scored_shards]  # type: ignore[arg-type]

    def bare() -> None:
        for shard in images:
            for start in range(0, len(shard), MAX_BATCH["cpu"]):
                detector.score(shard.batch(range(start, min(start + MAX_BATCH["cpu"], len(shard)))))

    task(warm)()
    bare_ms = min(_cpu_s(bare) for _ in range(3)) / count * 1e3
    task_ms = _cpu_s(task(timed)) / count * 1e3
    profile = cProfile.Profile()
    profile.runcall(task(profiled))
    spent = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    stages = [
        sum(times[3] for (file, _, function), times in spent if (function, Path(file).name) == stage)
        for stage in STAGES.values()
    ]
    return f"{bare_ms:8.1f}{task_ms:8.1f}{bare_ms / task_ms:7.2f}{'':25}" + "".join(
        f"{seconds / count * 1e3:10.2f}" for seconds in stages
    )


def _pack(root: Path, case: Case) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 190, (24, 24, 3), dtype=np.uint8)
    ground = np.asarray(cv2.resize(coarse, (case.side, case.side)), np.uint8)
    for folder in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / "photos" / folder).mkdir(parents=True)
    for number, folder in itertools.product(range(IMAGES), ("train/good", "test/good", "test/spot")):
        image, mask = _photo(rng, ground, defect=folder == "test/spot")
        cv2.imwrite(str(root / "photos" / folder / f"{number:03}{case.suffix}"), image)
        if case.masks and folder == "test/spot":
            cv2.imwrite(str(root / "photos/ground_truth/spot" / f"{number:03}_mask.png"), mask)
    store = open_store(str(root / "store"))
    pack(open_store(str(root / "photos")), store.sub("lines"), "line", PackOptions())


def _photo(
    rng: np.random.Generator, ground: npt.NDArray[np.uint8], *, defect: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    side = len(ground)
    noisy = ground.astype(np.float32) + rng.normal(0, 6, (side, side, 1)) + rng.normal(0, 4, (1, 1, 3))
    image, mask = np.clip(noisy, 0, 255).astype(np.uint8), np.zeros((side, side), np.uint8)
    if defect:
        centre = [int(at) for at in rng.integers(side // 8, side - side // 8, 2)]
        cv2.circle(image, centre, side // DEFECT, (10, 20, 30), -1)
        cv2.circle(mask, centre, side // DEFECT, 255, -1)
    return image, mask


def _cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
