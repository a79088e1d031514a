"""Peak memory of a worker that trains and scores padim: a line of 200 images against one of 2,000 (128x128 px)."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

COUNTS = (200, 2_000)
SIDE = 128


def write_line(folder: Path, count: int) -> None:
    """Half to train on, half to score."""
    rng = np.random.default_rng(0)
    for name in ("ok", "unlabelled"):
        (folder / name).mkdir(parents=True)
        for number in range(count // 2):
            noise = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{number:05}.png"), cv2.blur(noise, (5, 5)))


def work(folder: Path) -> None:
    """One unit, as a Ray worker does it; prints its peak memory in MB."""
    from raybench.config.experiment import Experiment, InputChoice, ModelChoice
    from raybench.config.plan import make_plan
    from raybench.runs.run import RunStore
    from raybench.worker.context import WorkerContext
    from raybench.worker.merge import Partials, merge
    from raybench.worker.score import score
    from raybench.worker.train import train

    model = ModelChoice(name="padim")
    plan = make_plan(
        Experiment(
            name="memory", store=str(folder), lines=("noise",), models=(model,), input=InputChoice(pixels=SIDE * SIDE)
        )
    )
    (folder / "cache").mkdir()
    context = WorkerContext(RunStore(plan.store, "memory"), plan.store.sub("lines"), folder / "cache", "cpu", 1)
    unit, manifest = plan.units[0], plan.manifests["noise"]
    train(unit, manifest, context)
    for shard in manifest.scored_shards:
        score(unit, manifest, shard, context)
    merge(unit, manifest, context.run, Partials())
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    from raybench.data.pack import PackOptions, pack
    from raybench.store import open_store

    peaks = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_line(folder / "images", count)
            options = PackOptions(shard_rows=100)
            pack(open_store(str(folder / "images")), open_store(name).sub("lines"), "noise", options)
            command = [sys.executable, "-m", "benchmarks.memory", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(json.loads(done.stdout.splitlines()[-1])))
            print(f"{count:>6} images: peak {peaks[-1]:.0f} MiB")
    print(f"ratio {peaks[1] / peaks[0]:.2f} for {COUNTS[1] / COUNTS[0]:.0f} times the images")


if __name__ == "__main__":
    work(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
