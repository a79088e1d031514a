"""Measurements that no other program disturbed, or that say how much."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from raybench.metrics.numbers import Speed

QUIET, ATTEMPTS = 0.1, 3


class BackgroundLoad:
    """What programs other than this process take of the machine's cores, from construction on."""

    def __init__(self) -> None:
        self._started, self._before = time.monotonic(), _other_seconds()

    def share(self) -> float:
        """0 (the machine was ours) to 1 (all cores were others')."""
        possible = (time.monotonic() - self._started) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, (_other_seconds() - self._before) / possible))


def time_when_idle(
    take: Callable[[], Speed],
    patience_s: float,
    watch: Callable[[], BackgroundLoad] = BackgroundLoad,
    clock: Callable[[], float] = time.monotonic,
) -> Speed:
    """The first measurement under a load of others below QUIET, or the quietest of all attempts; with that load.

    patience_s: no attempt starts later than that. A worker that ends, or a server that tidies up, is busy for some
    seconds; a machine that is still busy after them would make a slow model's measurement three times as long for
    nothing.
    """
    taken: list[Speed] = []
    end = clock() + patience_s
    while len(taken) < ATTEMPTS and (not taken or clock() < end):
        load = watch()
        taken.append(replace(take(), other_load=load.share()))
        if taken[-1].other_load < QUIET:
            break
    return min(taken, key=lambda speed: speed.other_load)


def _other_seconds() -> float:
    """CPU seconds of the whole machine since it started, less this process's own."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    waiting = machine.idle + getattr(machine, "iowait", 0.0)
    return float(sum(machine) - waiting - own.user - own.system)
