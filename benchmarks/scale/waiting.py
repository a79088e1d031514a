"""One round of the driver's loop, with many tasks in flight of which one has ended."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from benchmarks.scale.figures import Waiting
from benchmarks.scale.raylets import raylets

WINDOWS = (16, 250, 2000, 8000)
ROUNDS = 20


@ray.remote(num_cpus=1)
def never(number: int) -> int:
    return number


def measure() -> tuple[Waiting, ...]:
    """The tasks ask for a resource that no node has, so that all stay in flight."""
    with tempfile.TemporaryDirectory() as name, raylets(1, 1, 0, Path(name)):
        task = never.options(resources={"none": 1.0})
        in_flight = [ray.put(0)]
        found = []
        for window in WINDOWS:
            in_flight += [task.remote(number) for number in range(window - len(in_flight))]
            found.append(Waiting(window, round(_round_ms(in_flight), 3)))
    return tuple(found)


def _round_ms(in_flight: list[Any]) -> float:
    """The two questions of `scheduler.window`: wait for one, then who else is done."""
    started = time.process_time()
    for _ in range(ROUNDS):
        _, rest = ray.wait(in_flight, num_returns=1, timeout=0.5)
        ray.wait(rest, num_returns=len(rest), timeout=0)
    return (time.process_time() - started) / ROUNDS * 1e3
