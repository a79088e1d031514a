"""Inference speed, measured the way that can be compared: warmed up, synchronised, alone on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raybench.metrics.numbers import Speed

MIN_REPEATS = 3
_SHARES = 4  # of the budget
_BATCH_REPEATS = 5
_GAIN = 1.02  # a larger batch must bring at least this much more
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TimingOptions:
    """device, dtype, threads: conditions that are reported as they are. batch: the largest to try for throughput.
    warmup, warmup_s: at least so many calls and so long before anything is timed. repeats: of each
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

    Four measurements share the budget: decoding and fitting, the model on one image, both together, and batches of one
    size. Larger batches are tried while that pays, for the budget once more.
    """
    one = prepare(0)
    _warm_up(lambda: run(one), options)
    prepared = _repeat(prepare, options)
    alone = _repeat(lambda i: run(one), options)
    end_to_end = _repeat(lambda i: run(prepare(i)), options)
    best = _throughput(run, one, options)
    return Speed(
        p50_ms=float(np.median(alone)) * 1e3,
        p95_ms=float(np.quantile(alone, 0.95)) * 1e3,
        prepare_ms=float(np.median(prepared)) * 1e3,
        end_to_end_ms=float(np.median(end_to_end)) * 1e3,
        images_per_s=best.images_per_s,
        batch=best.batch,
        out_of_memory_at=best.out_of_memory_at,
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


@dataclass(frozen=True)
class _Batches:
    batch: int = 0
    images_per_s: float = 0.0
    out_of_memory_at: int | None = None


def _throughput(run: Callable[[Images], object], one: Images, options: TimingOptions) -> _Batches:
    """The batch with the most images a second: doubled until memory or time runs out or a larger one gains nothing."""
    best, batch, few = _Batches(), 1, replace(options, repeats=_BATCH_REPEATS)
    end = options.clock() + options.budget_s
    while batch <= options.batch and (batch == 1 or options.clock() < end):
        images = np.repeat(one, batch, axis=0)
        try:
            run(images)
            images_per_s = batch / float(np.median(_repeat(lambda i: run(images), few)))  # noqa: B023
        except Exception as error:
            if batch == 1 or not (isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__):
                raise
            return replace(best, out_of_memory_at=batch)
        if images_per_s < best.images_per_s * _GAIN:
            return best
        best = _Batches(batch, images_per_s)
        batch *= 2
    return best


def _repeat(work: Callable[[int], object], options: TimingOptions) -> list[float]:
    """Seconds of each call, at least three, within a share of the budget."""
    end = options.clock() + options.budget_s / _SHARES
    times: list[float] = []
    while len(times) < MIN_REPEATS or (len(times) < options.repeats and options.clock() < end):
        options.synchronize()
        started = options.clock()
        work(len(times))
        options.synchronize()
        times.append(options.clock() - started)
    return times
