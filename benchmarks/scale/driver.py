"""Fake units through Ray's test cluster: what one costs the driver, and whether its memory grows."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.scale import made
from benchmarks.scale.figures import Driver, Sample
from benchmarks.scale.raylets import object_store_mb, raylets
from raybench.config.experiment import Resources
from raybench.config.plan import make_plan
from raybench.report.console import RunSummary
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.runner import run_plan
from raybench.store import Store, open_store
from raybench.store.server import embedded_server

CPUS, GPUS = 2, 2  # of each node
RESOURCES = Resources(gpus=1.0, measure_s=0.01)
STEPS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass
class Watch:
    """Called by the runner in each of its rounds. first, last: what the process and its main thread have used and the
    time, at the first call and at the last sample; reading them takes half a millisecond, so not in each round."""

    samples: list[Sample] = field(default_factory=list)
    first: tuple[float, float, float] | None = None
    last: tuple[float, float, float] = (0.0, 0.0, 0.0)
    aggregator_s: float = 0.0
    tasks: int = 0

    def __call__(self, backlog: Backlog) -> None:
        self.first = self.first or _clocks()
        tallies = backlog.tallies.values()
        done, self.tasks = sum(each.done + each.failed for each in tallies), sum(each.total for each in tallies)
        reached = STEPS[min(len(self.samples), len(STEPS) - 1)]
        if self.tasks and done >= reached * self.tasks and len(self.samples) < len(STEPS):
            self.last = _clocks()
            rss_mb = psutil.Process().memory_info().rss / 1e6
            self.samples.append(Sample(round(done / self.tasks, 3), round(rss_mb, 1), round(object_store_mb(), 1)))
            self.aggregator_s = _aggregator_s()
            self._say()

    def _say(self) -> None:
        one = self.samples[-1]
        spent = self.last[2] - self.first[2] if self.first else 0.0
        print(f"  {one.done:4.0%} of {self.tasks} tasks: {one.rss_mb:.1f} MB, {spent:.0f} s", flush=True)


def _clocks() -> tuple[float, float, float]:
    return time.process_time(), time.thread_time(), time.perf_counter()


def _aggregator_s() -> float:
    """CPU seconds of the aggregation actor."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Aggregator"):
                used = process.cpu_times()
                total += used.user + used.system
    return total


@contextlib.contextmanager
def _store(kind: str, folder: Path) -> Iterator[Store]:
    if kind == "folder":
        yield open_store(str(folder / "store"))
        return
    with embedded_server(folder / "server"):
        store = open_store("s3://scale")
        store.create()
        yield store


def measure(lines: int, kind: str, nodes: int) -> Driver:
    """`lines` lines × ten fake models on so many nodes. kind: of the store, "folder" or "s3"."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, _store(kind, Path(name)) as store:
        made.put_lines(store, made.write_images(Path(name) / "images"), lines)
        experiment = made.experiment(store, "scale", RESOURCES)
        watch, before = Watch(), time.process_time()
        plan = make_plan(experiment)
        planned = time.process_time()
        with raylets(nodes, CPUS, GPUS, Path(name)):
            joined = time.process_time()
            summary = run_plan(plan, watch)
        return _figures(summary, watch, load, (lines, kind, nodes), (planned - before, joined))


def _figures(
    summary: RunSummary, watch: Watch, load: float, about: tuple[int, str, int], clocks: tuple[float, float]
) -> Driver:
    lines, kind, nodes = about
    plan_s, joined = clocks
    first, last, units = watch.first or watch.last, watch.last, summary.units
    return Driver(
        lines=lines,
        models=made.MODELS,
        units=units,
        tasks=watch.tasks,
        failed=len(summary.failed),
        nodes=nodes,
        cpus=CPUS,
        gpus=GPUS,
        store=kind,
        wall_s=round(last[2] - first[2], 1),
        plan_ms=round(plan_s / units * 1e3, 3),
        start_ms=round((first[0] - joined) / units * 1e3, 3),
        cpu_ms=round((last[0] - first[0]) / units * 1e3, 3),
        main_ms=round((last[1] - first[1]) / units * 1e3, 3),
        aggregator_ms=round(watch.aggregator_s / units * 1e3, 3),
        load=round(load, 1),
        samples=tuple(watch.samples),
    )
