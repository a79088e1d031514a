"""Metrics of a run for Prometheus. Ray exports them on every node beside its own, as `ray_raybench_...`.

The driver sets the gauges, and tasks add to the counters; the work of a killed task is not counted. The scrape
configuration and the dashboard are in cluster/dashboards/.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator

import ray
from ray.util.metrics import Counter, Gauge

from raybench.scheduler.backlog import Backlog, Job

PREFIX = "ray_"  # Ray's, of every metric
EVERY_S = 1.0
GAUGES = {
    "raybench_units": ("Units by state: waiting (not trained yet), trained, done, failed.", ("run", "state")),
    "raybench_tasks_left": ("Tasks that are not done, those under way included.", ("run", "phase")),
}
_TASK = ("run", "model", "phase")
COUNTERS = {
    "raybench_images_scored": ("Images scored.", ("run", "model")),
    "raybench_retries": ("Tasks tried again, in this run or after a failed one.", _TASK),
    "raybench_cpu_seconds": ("Seconds of tasks times the CPUs they had to themselves.", _TASK),
    "raybench_gpu_seconds": ("Seconds of tasks times the share of a GPU they had.", _TASK),
}


def watched(run: str, units: int, watch: Callable[[Backlog], None]) -> Callable[[Backlog], None]:
    """Wrap `watch` to set the gauges of a run of so many units too, every EVERY_S and at the end."""
    due = 0.0

    def both(backlog: Backlog) -> None:
        nonlocal due
        watch(backlog)
        if time.monotonic() < due and backlog.units_open:
            return
        due = time.monotonic() + EVERY_S
        for state, count in states(backlog, units).items():
            _gauge("raybench_units").set(count, {"run": run, "state": state})
        for phase, tally in backlog.tallies.items():
            left = tally.total - tally.done - tally.failed
            _gauge("raybench_tasks_left").set(max(left, 0), {"run": run, "phase": phase})

    return both


def states(backlog: Backlog, units: int) -> dict[str, int]:
    """Count the units by state; `units`: in all."""
    train = backlog.tallies["train"]
    waiting = train.total - train.done - train.failed
    done = backlog.reused + backlog.tallies["measure"].done
    return {
        "waiting": waiting,
        "trained": backlog.units_open - waiting,
        "done": done,
        "failed": units - backlog.units_open - done,
    }


@contextlib.contextmanager
def metered(run: str, job: Job, again: bool) -> Iterator[None]:
    """Count the work of a task while the block, inside it, runs. again: it has been tried before."""
    tags = {"run": run, "model": job.unit.model}
    if again:
        _counter("raybench_retries").inc(1, tags | {"phase": job.phase})
    started = time.perf_counter()
    try:
        yield
        if job.images:
            _counter("raybench_images_scored").inc(job.images, tags)
    finally:
        seconds = time.perf_counter() - started
        assigned: dict[str, float] = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
        for resource, share in assigned.items():
            if resource in {"CPU", "GPU"} and share:
                name = f"raybench_{resource.lower()}_seconds"
                _counter(name).inc(seconds * share, tags | {"phase": job.phase})


@functools.cache
def _gauge(name: str) -> Gauge:
    about, tags = GAUGES[name]
    return Gauge(name, about, tags)


@functools.cache
def _counter(name: str) -> Counter:
    about, tags = COUNTERS[name]
    return Counter(name, about, tags)
