"""How long a plan will take: the run's own bookkeeping, fed with predicted seconds in place of tasks. Knows no Ray."""

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
    """tasks: train and score tasks at once, if only CPUs counted. gpus: that they share. nodes: measuring tasks at
    once."""

    tasks: int
    gpus: float
    nodes: int

    @classmethod
    def of(cls, slots: Capacity) -> FreeCapacity:
        return cls(slots.cpu_slots, float(slots.all_gpus), len(slots.nodes))


@dataclass(frozen=True)
class ResourceRequest:
    """Of one task."""

    seconds: float
    cpus: int = 1
    gpus: float = 0.0


def simulate(backlog: Backlog, room: FreeCapacity, demand_of: Callable[[Job], ResourceRequest]) -> Work:
    """What the jobs of `backlog` take, which is used up. Merging shards takes no time and no room."""
    now = used = cpu_s = gpu_s = 0.0
    working, numbers = 0, itertools.count()
    running: list[tuple[float, int, Job, ResourceRequest]] = []
    held: Job | None = None
    while True:
        while job := held or backlog.take(busy=working > 0):
            demand, held = demand_of(job), job
            if job.phase == "measure":
                full = len(running) >= room.nodes
            else:
                full = working >= room.tasks or used + demand.gpus > room.gpus + 1e-9
            if running and full and job.phase != "aggregate":
                break
            held, used = None, used + demand.gpus
            cpu_s, gpu_s = cpu_s + demand.seconds * demand.cpus, gpu_s + demand.seconds * demand.gpus
            working += job.phase != "measure"
            heapq.heappush(running, (now + demand.seconds, next(numbers), job, demand))
        if not running:
            return Work(now, cpu_s, gpu_s)
        now, _, job, demand = heapq.heappop(running)
        used -= demand.gpus
        working -= job.phase != "measure"
        backlog.finish(job)
