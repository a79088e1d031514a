"""A line whose lamp ages, watched: `python -m benchmarks.watch LINE`, where LINE is a folder in the mvtec layout.

A detector learns from some of the line's OK images; the others are what the camera sees from then on, some of them
each day, with noise of their own. First a month is recorded: `raybench predict` on each day's folder, then
`raybench watch`. Then months are simulated: the pool of new images is scored once at each loss of light, days are drawn
from it, and `raybench.analysis.watch` looks at them. A month's threshold comes from scores that are drawn for it too,
because its promise is one over held-back images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

import raybench as rb
from raybench.analysis.watch import FALSE_ALARMS, YEAR, Watch, watch
from raybench.data.inspection.properties import join, measure_shard
from raybench.data.manifest import read_manifest
from raybench.data.perturbations import noisy, scaled, side_of
from raybench.metrics.image import ImageScores
from raybench.metrics.intervals import clopper_pearson
from raybench.metrics.threshold import conformal_threshold
from raybench.report.predictions import PROPERTIES
from raybench.runs.history import QUANTILES, Batch, read_batches
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore

TRAINED, TESTED = 60, 8
"""OK images to learn from, and images of each label to judge by. The other OK images are those of the days."""
IMAGES, DAYS, STABLE = 24, 30, 10
"""Images of a day, days of a month, and days of the recorded month before the lamp ages."""
AGEING = 0.01
"""Share of the light that the lamp of the recorded month loses each day."""
NOISE = 0.005
"""Noise of the camera, as a share of white."""
STEP, STEPS = 0.01, range(-3, 21)
"""Losses of light at which the pool is scored. The lamp ages no further."""
SIDE, PIXELS = 400, 160 * 160
"""Shorter side of the images, and pixels of the network's input: small, so that thousands of images take minutes."""
START = datetime(2026, 3, 1, 6, tzinfo=UTC)
RUN, LEVELS = "recorded", "levels"
HEADER = (
    "| light | months | any alarm | 95 % interval | days until it: median | 90 % | light lost by then, median | "
    "found first by |\n|---|---|---|---|---|---|---|---|"
)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """New images of a line, scored and measured at each loss of light."""

    levels: Mapping[int, pd.DataFrame]
    """By loss of light, in STEPs: a row per image, with `scores` and PROPERTIES."""
    held_out: npt.NDArray[np.float64]
    """Scores of the images that were held back from training."""
    batch: Batch
    """A batch of the line and the detector."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("line", type=Path)
    parser.add_argument("--model", default="dfm")
    parser.add_argument("--months", type=int, default=1000, help="months without ageing; a fifth of it with")
    parser.add_argument("--years", type=int, default=50, help="years without ageing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = prepare(chosen.line, folder, chosen.model)
        record(pool, folder, chosen.model)
        simulate(measure(pool, folder, chosen.model), chosen.months, chosen.years)


def prepare(source: Path, folder: Path, model: str) -> list[Path]:
    """Train a detector on some of a line's OK images, in two runs that share it; return the other OK images."""
    rng = np.random.default_rng(0)
    ok = sorted([*(source / "train/good").iterdir(), *(source / "test/good").iterdir()])
    ng = sorted(path for path in (source / "test").rglob("*") if path.is_file() and path.parent.name != "good")
    ok, ng = ([paths[at] for at in rng.permutation(len(paths))] for paths in (ok, ng))
    for part, paths in (("ok", ok[:TRAINED]), ("test_ok", ok[TRAINED:][:TESTED]), ("ng", ng[:TESTED])):
        take(paths, folder / "line" / part, 0.0, rng)
    for name in (RUN, LEVELS):
        rb.run(
            folder / "line", models=[model], store=folder / "store", name=name, preset="cpu", squashed_twins=False,
            input={"pixels": PIXELS}, progress=False,
        )  # fmt: skip
    return ok[TRAINED + TESTED :]


def take(paths: Sequence[Path], folder: Path, loss: float, rng: np.random.Generator) -> None:
    """Write images as the camera takes them when the lamp has lost this share of its light."""
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        image = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)
        small = cv2.resize(image, None, fx=(part := SIDE / side_of(image)), fy=part, interpolation=cv2.INTER_AREA)
        seen = noisy(scaled(np.asarray(small, np.uint8), 1 - loss), NOISE, rng)
        cv2.imwrite(str(folder / f"{number:03}.png"), seen, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def record(pool: Sequence[Path], folder: Path, model: str) -> None:
    """Predict a month day by day, and print what `raybench watch` says."""
    rng, run = np.random.default_rng(1), rb.open_run(f"{folder}/store/runs/{RUN}")
    for day in range(DAYS):
        images = folder / f"day-{day + 1:02}"
        take([pool[at] for at in rng.choice(len(pool), IMAGES, replace=False)], images, _loss(day, STABLE, AGEING), rng)
        at = (START + timedelta(days=day)).isoformat()
        run.predict(images, line="line", model=model, at=at, folder=folder / "out", progress=False)
    command = [sys.executable, "-m", "raybench", "watch", run.uri, "--line", "line", "--model", model]
    print(f"The lamp loses {AGEING:.0%} of its light each day from day {STABLE + 1} on:\n", flush=True)
    done = subprocess.run(command, env=os.environ | {"COLUMNS": "120"}, check=False)
    print(f"(exit code {done.returncode})\n", flush=True)


def measure(pool: Sequence[Path], folder: Path, model: str) -> Pool:
    """Score and measure all of the pool at each loss of light."""
    rng, run = np.random.default_rng(2), rb.open_run(f"{folder}/store/runs/{LEVELS}")
    store = RunStore.of(run.plan)
    levels = {}
    for step in STEPS:
        name = f"level-{step - STEPS[0]:02}"
        take(pool, folder / name, step * STEP, rng)
        found = run.predict(folder / name, line="line", model=model, folder=folder / "out", progress=False)
        packed = store.prediction(name)
        images = packed.store.sub(f"{packed.root}/images")
        manifest = read_manifest(images, "line")
        properties = join([measure_shard(images, manifest, shard) for shard in manifest.shards]).table
        scores = found.set_index("image_id")["score"].rename("scores")
        levels[step] = properties.set_index("image_id")[list(PROPERTIES)].join(scores)
    (unit,) = run.plan.units
    trained = store.read(unit.detector_id, "train", TrainRecord)
    assert trained is not None
    held_out = ImageScores.from_bytes(store.get_blob(trained.held_out)).scores
    return Pool(levels, held_out, read_batches(store, "line", unit.detector_id)[0])


def simulate(pool: Pool, months: int, years: int) -> None:
    """Print how often stable months and years have an alarm, and how soon an ageing lamp has one."""
    ok = len(pool.levels[0]) + len(pool.held_out)
    print(f"Days of {IMAGES} images, drawn from {len(pool.levels[0])}; {len(pool.held_out)} of {ok} set a threshold.")
    print(f"Promised: any alarm in at most {FALSE_ALARMS:.0%} of stable runs of {YEAR} days.\n\n{HEADER}", flush=True)
    for light, count, days in (("month", months, DAYS), ("year", years, YEAR)):
        for spread in (0.0, 0.01) if count else ():
            words = f"a {light} of the same light" + (
                f", which differs by ±{spread:.0%} from day to day" * bool(spread)
            )
            _row(words, [_watched(pool, np.zeros(days), spread, (number, days)) for number in range(count)], days, 0.0)
    for before in (0, STABLE, DAYS):
        for daily in (0.0025, 0.005, 0.01):
            losses = np.array([_loss(day, before, daily) for day in range(before + DAYS)])
            words = f"−{daily:.2%} a day, from day {before + 1} on, ±1 % from day to day"
            seen = [_watched(pool, losses, 0.01, (number, before, round(daily * 1e4))) for number in range(months // 5)]
            _row(words, seen, before, daily)


def _loss(day: int, before: int, daily: float) -> float:
    return max(0, day + 1 - before) * daily


def _watched(pool: Pool, losses: npt.NDArray[np.float64], spread: float, seed: Sequence[int]) -> Watch:
    """Watch simulated days whose lamp has lost so much light. spread: standard deviation of the light between days."""
    rng = np.random.default_rng(seed)
    known = np.concatenate([pool.held_out, pool.levels[0]["scores"]])
    width = 0.9 * known.std() * len(known) ** -0.2  # a smoothed bootstrap: new scores are never equal to old ones
    held_out = rng.choice(known, len(pool.held_out)) + width * rng.standard_normal(len(pool.held_out))
    threshold = conformal_threshold(held_out, pool.batch.threshold.budget)
    batches = []
    for day, loss in enumerate(losses + spread * rng.standard_normal(len(losses))):
        level = pool.levels[int(np.clip(round(loss / STEP), STEPS[0], STEPS[-1]))]
        seen = level.iloc[rng.choice(len(level), IMAGES)]
        seen = seen.assign(scores=seen["scores"] + width * rng.standard_normal(IMAGES))
        batches.append(
            replace(
                pool.batch,
                at=(START + timedelta(days=day)).isoformat(),
                images=IMAGES,
                threshold=threshold,
                flagged=int((seen["scores"] > threshold.value).sum()),
                quantiles={
                    name: tuple(np.quantile(seen[name], QUANTILES).tolist()) for name in ("scores", *PROPERTIES)
                },
            )
        )
    return watch(RUN, batches)


def _row(words: str, months: Sequence[Watch], before: int, daily: float) -> None:
    """Print how many months have an alarm and, in days since the lamp ages, how soon."""
    alarms = [sorted(_alarms(month)) for month in months]
    found = sum(map(bool, alarms))
    low, high = clopper_pearson(found, len(months))
    cells = [words, str(len(months)), f"{found / len(months):.1%}", f"{low:.1%}–{high:.1%}"]
    if daily:
        days = [each[0][0] - before if each else np.inf for each in alarms]
        median, late = (np.quantile(days, share, method="higher") for share in (0.5, 0.9))
        cells += [f"{median:.0f}", f"{late:.0f}", f"{median * daily:.1%}"]
    else:
        cells += ["", "", ""]
    first = [each[0][1] for each in alarms if each]
    cells.append(", ".join(f"{name} {first.count(name)}" for name in sorted(set(first), key=first.count, reverse=True)))
    print("|", " | ".join(cells), "|", flush=True)


def _alarms(month: Watch) -> list[tuple[int, str]]:
    """Return the day, from 1 on, and the name of each alarm."""
    found = [(change.found, change.what) for change in month.changes]
    if month.threshold.found:
        found.append((month.threshold.found, f"threshold: {month.threshold.state}"))
    return [((datetime.fromisoformat(at) - START).days + 1, what) for at, what in found]


if __name__ == "__main__":
    main()
