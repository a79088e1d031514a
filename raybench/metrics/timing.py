"""Inference speed, measured the way that can be compared: warmed up, synchronised, alone on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raybench.results import Speed

MIN_REPEATS = 3
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TimingOptions:
    """device, dtype, threads: conditions that are reported as they are. batch: for throughput; halved while memory
    runs out. warmup, warmup_s: at least so many calls and so long before anything is timed. repeats: of each
    measurement, fewer when `budget_s` ends. synchronize: waits for the device. peak_memory_mb: the device's,
    afterwards. clock: seconds."""

    device: str
    dtype: str = "float32"
    threads: int = 1
    batch: int = 8
    warmup: int = 2
    warmup_s: float = 1.0
    repeats: int = 30
    budget_s: float = 10.0
    synchronize: Callable[[], None] = lambda: None
    peak_memory_mb: Callable[[], float | None] = lambda: None
    clock: Callable[[], float] = time.perf_counter


def measure_speed(run: Callable[[Images], object], prepare: Callable[[int], Images], options: TimingOptions) -> Speed:
    """Speed of `run`, the model on (B, H, W, 3) uint8. prepare: image `i`, decoded and fitted, (1, H, W, 3).

    Three measurements share the budget: the model on one image, decoding and fitting included, and on a batch.
    """
    one = prepare(0)
    _warm_up(lambda: run(one), options)
    alone = _repeat(lambda i: run(one), options)
    end_to_end = _repeat(lambda i: run(prepare(i)), options)
    batch, times = _throughput(run, one, options)
    return Speed(
        p50_ms=float(np.median(alone)) * 1e3,
        p95_ms=float(np.quantile(alone, 0.95)) * 1e3,
        end_to_end_ms=float(np.median(end_to_end)) * 1e3,
        images_per_s=batch / float(np.median(times)),
        batch=batch,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        peak_memory_mb=options.peak_memory_mb(),
    )


def _warm_up(work: Callable[[], object], options: TimingOptions) -> None:
    """Caches, thread pools and clocks settle in a time, not in a number of calls."""
    end, calls = options.clock() + options.warmup_s, 0
    while calls < options.warmup or options.clock() < end:
        work()
        options.synchronize()
        calls += 1


def _throughput(run: Callable[[Images], object], one: Images, options: TimingOptions) -> tuple[int, list[float]]:
    """The largest batch that fits, and its times."""
    images = np.repeat(one, options.batch, axis=0)
    try:
        run(images)
        return options.batch, _repeat(lambda i: run(images), options)
    except Exception as error:
        if options.batch == 1 or "OutOfMemory" not in type(error).__name__:
            raise
    return _throughput(run, one, replace(options, batch=options.batch // 2))


def _repeat(work: Callable[[int], object], options: TimingOptions) -> list[float]:
    """Seconds of each call, at least three, within a third of the budget."""
    end = options.clock() + options.budget_s / 3
    times: list[float] = []
    while len(times) < MIN_REPEATS or (len(times) < options.repeats and options.clock() < end):
        options.synchronize()
        started = options.clock()
        work(len(times))
        options.synchronize()
        times.append(options.clock() - started)
    return times
