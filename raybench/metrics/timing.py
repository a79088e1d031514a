"""Measure inference speed so that it can be compared: warmed up, synchronised, and alone on the device."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.errors import is_out_of_memory
from raybench.metrics.numbers import Speed

MIN_REPEATS = 3
_MEASUREMENTS = 4  # that share the budget equally
_BATCH_REPEATS = 5
_GAIN = 1.02  # least gain in throughput for which a larger batch is kept
_ROUNDS = 3  # of the calls whose 95th percentile is taken
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
    cpu_clock: Callable[[], float] = time.process_time
    """Returns the CPU time of all threads of this process, in seconds."""
    watch_load: Callable[[], Callable[[], float]] = lambda: lambda: 0.0
    """Starts to watch other programs. The function that it returns gives their share of the machine's cores so far."""


def cpu_name() -> str:
    """Return the product name of the CPU."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
    load = options.watch_load()
    prepared = _repeat(prepare, options)
    alone = _repeat(lambda _: run(image), options)
    end_to_end = _repeat(lambda i: run(prepare(i)), options)
    best = _throughput(run, image, options)
    return Speed(
        p50_ms=float(np.median(alone)) * 1e3,
        p95_ms=_p95(alone) * 1e3,
        prepare_ms=float(np.median(prepared)) * 1e3,
        end_to_end_ms=float(np.median(end_to_end)) * 1e3,
        images_per_s=best.images_per_s,
        batch=best.batch,
        out_of_memory_at=best.out_of_memory_at,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        peak_memory_mb=options.peak_memory_mb(),
        other_load=load(),
    )


def estimate_idle_speed(
    disturbed: Speed, run: Callable[[Images], object], prepare: Callable[[int], Images], options: TimingOptions
) -> Speed:
    """Estimate from CPU time what a model's times on the CPU would be on an idle machine.

    Other programs multiply the wall time of a call and hardly change its CPU time, as long as it has one thread: with
    several, each spins while it waits for one that another program displaced. So the CPU time is taken on one thread,
    and divided by the number of threads of `options` as if the model made perfect use of all. The estimate is the
    shortest time that can be expected, and never longer than the time measured.

    Args:
        disturbed: The speed that was measured while other programs used the machine.
        run: The same model on one thread, called with (B, H, W, 3) uint8.
        prepare: As for `measure_speed`.
        options: As for `measure_speed`.
    """
    image = prepare(0)
    images = np.repeat(image, disturbed.batch, axis=0)
    run(image)
    prepared_ms = float(np.median(_repeat(prepare, options, options.cpu_clock))) * 1e3
    alone = _repeat(lambda _: run(image), options, options.cpu_clock)
    alone_ms = [cpu_s * 1e3 / options.threads for cpu_s in alone]
    few = replace(options, repeats=_BATCH_REPEATS)
    batch_s = float(np.median(_repeat(lambda _: run(images), few, options.cpu_clock))) / options.threads
    p50_ms, prepare_ms = min(disturbed.p50_ms, float(np.median(alone_ms))), min(disturbed.prepare_ms, prepared_ms)
    return replace(
        disturbed,
        p50_ms=p50_ms,
        p95_ms=min(disturbed.p95_ms, _p95(alone_ms)),
        prepare_ms=prepare_ms,
        end_to_end_ms=min(disturbed.end_to_end_ms, prepare_ms + p50_ms),
        images_per_s=max(disturbed.images_per_s, disturbed.batch / batch_s),
        wall_p50_ms=disturbed.p50_ms,
    )


def _p95(times: Sequence[float]) -> float:
    """Return the median of the rounds' 95th percentiles: a disturbance of some calls in a row spoils one round."""
    rounds = np.array_split(times, _ROUNDS)
    # Rounds of few calls may lie below the median of all.
    return max(float(np.median(times)), float(np.median([np.quantile(part, 0.95) for part in rounds])))


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


def _repeat(
    work: Callable[[int], object], options: TimingOptions, timer: Callable[[], float] | None = None
) -> list[float]:
    """Return the seconds of each call: at least MIN_REPEATS calls, then more within a share of the budget.

    Args:
        work: What is timed, called with the number of the call.
        options: Conditions and limits.
        timer: The clock that times a call. None: `options.clock`, which limits all calls.
    """
    end, timer = options.clock() + options.budget_s / _MEASUREMENTS, timer or options.clock
    times: list[float] = []
    while len(times) < MIN_REPEATS or (len(times) < options.repeats and options.clock() < end):
        options.synchronize()
        started = timer()
        work(len(times))
        options.synchronize()
        times.append(timer() - started)
    return times
