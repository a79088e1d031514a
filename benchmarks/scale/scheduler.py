"""The scheduler alone, without Ray: what a unit costs the order and the backlog, and what both hold."""

from __future__ import annotations

import random
import time
from collections import deque

import psutil

from benchmarks.scale.figures import Sample, Scheduler
from raybench.config.unit import Unit
from raybench.data.geometry import Input
from raybench.data.manifest import SCHEMA_VERSION, Manifest, ShardInfo
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.estimate import in_order

LINES, MODELS, SHARDS = 1000, 10, 4
WINDOW = 2000  # jobs in flight
STEPS = (0.1, 0.25, 0.5, 0.75, 1.0)


def measure(units: int) -> Scheduler:
    manifests = {f"line-{number}": _manifest(f"line-{number}") for number in range(LINES)}
    made = _units(units)
    order_s, ordered = _order(made)
    started = time.process_time()
    backlog = Backlog(ordered, manifests, {})
    queue_s = time.process_time() - started
    before_mb = _rss_mb()
    started = time.process_time()
    jobs, samples = _drain(backlog)
    work_s = time.process_time() - started
    return Scheduler(
        units=units,
        jobs=jobs,
        window=WINDOW,
        order_us=_us(order_s, units),
        queue_us=_us(queue_s, units),
        work_us=_us(work_s, units),
        samples=(Sample(0.0, before_mb), *samples),
    )


def _units(count: int) -> list[Unit]:
    """As a plan holds them, their identity computed."""
    size = Input("native", 256, 256, 256, 256)
    units = [
        Unit(f"line-{at % LINES}", "digest", "training", f"model-{at // LINES % MODELS}", "fake", {}, {}, size, at)
        for at in range(count)
    ]
    for unit in units:
        vars(unit)["unit_id"] = f"{unit.seed:020x}"
    return units


def _order(units: list[Unit]) -> tuple[float, list[Unit]]:
    rng = random.Random(0)  # noqa: S311
    costs = {unit.unit_id: rng.uniform(10, 1000) for unit in units}
    started = time.process_time()
    ordered = in_order(units, lambda unit: costs[unit.unit_id])
    return time.process_time() - started, ordered


def _drain(backlog: Backlog) -> tuple[int, list[Sample]]:
    """Take and finish everything, with WINDOW jobs in flight."""
    total = sum(tally.total for tally in backlog.tallies.values())
    running: deque[Job] = deque()
    done, samples = 0, list[Sample]()
    while True:
        while len(running) < WINDOW and (job := backlog.take(busy=bool(running) and running[-1].phase != "measure")):
            running.append(job)
        if not running:
            return done, samples
        backlog.finish(running.popleft())
        done += 1
        if done >= STEPS[len(samples)] * total:
            samples.append(Sample(STEPS[len(samples)], _rss_mb()))


def _manifest(line: str) -> Manifest:
    shards = [ShardInfo(f"{line}/test-{n:05}.parquet", "test", 100, 10**8, f"{n}", 8, "") for n in range(SHARDS)]
    train = ShardInfo(f"{line}/train-00000.parquet", "train", 100, 10**8, "t", 8, "")
    counts = {"train/ok": 100, "test/ok": 100 * SHARDS}
    return Manifest(line, SCHEMA_VERSION, "mvtec", counts, 0, *(256,) * 6, 255, (train, *shards), ())


def _rss_mb() -> float:
    return float(round(psutil.Process().memory_info().rss / 1e6, 1))


def _us(seconds: float, units: int) -> float:
    return round(seconds / units * 1e6, 2)
