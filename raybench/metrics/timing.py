"""Measure inference speed so that it can be compared: warmed up, synchronised, and alone on the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raybench.errors import is_out_of_memory
from raybench.metrics.numbers import Speed

MIN_REPEATS = 3
_MEASUREMENTS = 4  # that share the budget equally
_BATCH_REPEATS = 5
_GAIN = 1.02  # least gain in throughput for which a larger batch is kept
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TimingOptions:
    """Conditions and limits of a speed measurement."""

    device: str
    """Description of the device; only reported."""
    dtype: str = "float32"
    """Data type of the computation; only reported."""
    threads: int = 1
    """CPU threads in use; only reported."""
    batch: int = 8
    """Largest batch size to try for throughput."""
    warmup: int = 2
    """Least number of calls before the first measurement."""
    warmup_s: float = 1.0
    """Least time in seconds before the first measurement."""
    repeats: int = 30
    """Calls per measurement; fewer when `budget_s` runs out."""
    budget_s: float = 10.0
    """Time budget in seconds."""
    synchronize: Callable[[], None] = lambda: None
    """Waits until the device is idle."""
    peak_memory_mb: Callable[[], float | None] = lambda: None
    """Returns the device's peak memory in 10^6 bytes; called last."""
    clock: Callable[[], float] = time.perf_counter
    """Returns a time in seconds."""


def measure_speed(run: Callable[[Images], object], prepare: Callable[[int], Images], options: TimingOptions) -> Speed:
    """Measure the speed of a model.

    Three measurements take a quarter of the budget each: preparing an image, the model on one image, and both together.
    Throughput is measured for growing batch sizes, each within a quarter of the budget and all within the budget.

    Args:
        run: The model, called with (B, H, W, 3) uint8.
        prepare: Decodes image `i` and resizes it for the network: (1, H, W, 3) uint8.
        options: Conditions and limits.
    """
    image = prepare(0)
    _warm_up(lambda: run(image), options)
    prepared = _repeat(prepare, options)
    alone = _repeat(lambda _: run(image), options)
    end_to_end = _repeat(lambda i: run(prepare(i)), options)
    best = _throughput(run, image, options)
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
    """Call `work` for a time as well as a number of times: caches, thread pools and clock rates take time to settle."""
    end, calls = options.clock() + options.warmup_s, 0
    while calls < options.warmup or options.clock() < end:
        work()
        options.synchronize()
        calls += 1


@dataclass(frozen=True)
class _Throughput:
    batch: int = 0
    images_per_s: float = 0.0
    out_of_memory_at: int | None = None


def _throughput(run: Callable[[Images], object], image: Images, options: TimingOptions) -> _Throughput:
    """Double the batch size until memory or time runs out or throughput stops growing; return the best."""
    best, batch, few = _Throughput(), 1, replace(options, repeats=_BATCH_REPEATS)
    end = options.clock() + options.budget_s
    while batch <= options.batch and (batch == 1 or options.clock() < end):
        images = np.repeat(image, batch, axis=0)
        try:
            run(images)
            images_per_s = batch / float(np.median(_repeat(lambda _: run(images), few)))  # noqa: B023
        except Exception as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            return replace(best, out_of_memory_at=batch)
        if images_per_s < best.images_per_s * _GAIN:
            return best
        best = _Throughput(batch, images_per_s)
        batch *= 2
    return best


def _repeat(work: Callable[[int], object], options: TimingOptions) -> list[float]:
    """Return the seconds of each call: at least MIN_REPEATS calls, then more within a share of the budget."""
    end = options.clock() + options.budget_s / _MEASUREMENTS
    times: list[float] = []
    while len(times) < MIN_REPEATS or (len(times) < options.repeats and options.clock() < end):
        options.synchronize()
        started = options.clock()
        work(len(times))
        options.synchronize()
        times.append(options.clock() - started)
    return times
