"""Simulate a run: its own backlog, fed with estimated seconds in place of tasks. Does not use Ray."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from raybench.runs.cost_model import Work
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Capacity


@dataclass(frozen=True)
class FreeCapacity:
    """What tasks share in the simulation."""

    tasks: int
    """Train and score tasks that the CPUs allow at once."""
    gpus: float
    """GPUs that tasks share."""
    nodes: int
    """Timing tasks at once: one for each node."""

    @classmethod
    def of(cls, capacity: Capacity) -> FreeCapacity:
        return cls(capacity.cpu_slots, float(capacity.all_gpus), len(capacity.nodes))


@dataclass(frozen=True)
class ResourceRequest:
    """What one task takes."""

    seconds: float
    """Wall time."""
    cpus: int = 1
    """CPU cores."""
    gpus: float = 0.0
    """Share of a GPU, or whole GPUs."""


def simulate(backlog: Backlog, free: FreeCapacity, request_of: Callable[[Job], ResourceRequest]) -> Work:
    """Return the time that the jobs of `backlog` take, and use it up. Merging shards takes no time and no slot."""
    now = used = cpu_s = gpu_s = 0.0
    working, numbers = 0, itertools.count()
    running: list[tuple[float, int, Job, ResourceRequest]] = []
    held: Job | None = None
    while True:
        while job := held or backlog.take(busy=working > 0):
            request, held = request_of(job), job
            if job.phase == "measure":
                full = len(running) >= free.nodes
            else:
                full = working >= free.tasks or used + request.gpus > free.gpus + 1e-9
            if running and full and job.phase != "aggregate":
                break
            held, used = None, used + request.gpus
            cpu_s, gpu_s = cpu_s + request.seconds * request.cpus, gpu_s + request.seconds * request.gpus
            working += job.phase != "measure"
            heapq.heappush(running, (now + request.seconds, next(numbers), job, request))
        if not running:
            return Work(now, cpu_s, gpu_s)
        now, _, job, request = heapq.heappop(running)
        used -= request.gpus
        working -= job.phase != "measure"
        backlog.finish(job)
