"""Made-up lines and units, and a backlog worked off without a cluster."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from raybench.config.unit import TrainingLine, Unit
from raybench.data.geometry import Input
from raybench.data.manifest import Manifest, ShardInfo
from raybench.scheduler.backlog import Backlog, Job


def manifest(line: str, shards: int) -> Manifest:
    test = tuple(ShardInfo(f"{line}/test-{n:05}.parquet", "test", 10, 100, f"{n}", 8, "") for n in range(shards))
    return Manifest(
        line=line,
        schema_version=1,
        layout="mvtec",
        counts={"train/ok": 8, "test/ok": 10 * shards},
        masks=0,
        median_height=64,
        median_width=64,
        min_height=64,
        min_width=64,
        max_height=64,
        max_width=64,
        white_level=255,
        shards=(ShardInfo(f"{line}/train-00000.parquet", "train", 8, 100, "t", 8, ""), *test),
        rejects=(),
    )


def unit(line: str, seed: int) -> Unit:
    return Unit(line, "digest", f"training of {line}", "fake", "fake", {}, {}, Input("native", 64, 64, 64, 64), seed)


def together(lines: Sequence[str], seed: int) -> list[Unit]:
    """Units of these lines that share one detector."""
    units = [unit(line, seed) for line in lines]
    trained_on = tuple(TrainingLine(one.line, one.training_digest, one.protocol) for one in units)
    return [replace(one, model="fake@all", together=trained_on) for one in units]


def drain(backlog: Backlog, window: int, shuffle: random.Random, failing: set[tuple[str, str]]) -> list[Job]:
    """Run everything with `window` jobs at once that end in any order; (unit_id, phase) in `failing` fail."""
    running: list[Job] = []
    order: list[Job] = []
    while True:
        while len(running) < window and (job := backlog.take(any(one.phase != "measure" for one in running))):
            assert job.phase != "measure" or all(one.phase == "measure" for one in running)
            running.append(job)
        if not running:
            return order
        job = running.pop(shuffle.randrange(len(running)))
        order.append(job)
        if (job.unit.unit_id, job.phase) in failing:
            backlog.fail(job)
        else:
            backlog.finish(job)
