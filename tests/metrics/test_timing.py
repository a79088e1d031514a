from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from raybench.metrics.numbers import IDLE_LOAD
from raybench.metrics.timing import TimingOptions, estimate_idle_speed, measure_speed

Images = npt.NDArray[np.uint8]


class OutOfMemoryError(RuntimeError):
    pass


class Machine:
    """Clocks that only move when something works. Other programs delay what works, and use no CPU time of it."""

    def __init__(self, largest: int = 100, per_call: float = 0.0) -> None:
        self.now, self.per_call = 0.0, per_call
        self.cpu = 0.0
        self.slowdown = 1.0
        self.hiccup = range(0)  # calls that take ten times as long
        self.calls: list[int] = []
        self.waits = 0
        self.largest = largest

    def run(self, images: Images) -> None:
        if len(images) > self.largest:
            raise OutOfMemoryError("no")
        self.calls.append(len(images))
        self.work(self.per_call + 0.010 * len(images), 10 if len(self.calls) in self.hiccup else 1)

    def work(self, seconds: float, times: float = 1) -> None:
        self.cpu += seconds
        self.now += seconds * self.slowdown * times

    def prepare(self, index: int) -> Images:
        self.work(0.005)
        return np.zeros((1, 4, 4, 3), np.uint8)

    def wait(self) -> None:
        self.waits += 1

    def options(self, **more: object) -> TimingOptions:
        return TimingOptions("box", clock=lambda: self.now, cpu_clock=lambda: self.cpu, synchronize=self.wait, **more)  # type: ignore[arg-type]


def test_what_is_measured() -> None:
    machine = Machine()
    found = measure_speed(machine.run, machine.prepare, machine.options(batch=8, repeats=5))
    assert found.p50_ms == pytest.approx(10)
    assert found.p95_ms == pytest.approx(10)
    assert found.prepare_ms == pytest.approx(5)
    assert found.end_to_end_ms == pytest.approx(15)
    assert found.images_per_s == pytest.approx(100)
    assert (found.batch, found.device, found.peak_memory_mb, found.out_of_memory_at) == (1, "box", None, None)
    assert machine.waits == 2 * 5 * 5 + 100  # each call between two waits; a second of warm-up at 10 ms


def test_the_batch_grows_while_that_pays() -> None:
    machine = Machine(per_call=0.030)
    found = measure_speed(machine.run, machine.prepare, machine.options(batch=16))
    assert found.batch == 16
    assert found.images_per_s == pytest.approx(16 / 0.190)


def test_the_batch_that_does_not_fit_is_recorded() -> None:
    machine = Machine(largest=3, per_call=0.030)
    found = measure_speed(machine.run, machine.prepare, machine.options(batch=16))
    assert (found.batch, found.out_of_memory_at) == (2, 4)


def test_other_errors_are_not_hidden() -> None:
    def broken(images: Images) -> None:
        raise ValueError("broken")

    machine = Machine()
    with pytest.raises(ValueError, match="broken"):
        measure_speed(broken, machine.prepare, machine.options())
    with pytest.raises(OutOfMemoryError):
        measure_speed(Machine(largest=0).run, machine.prepare, machine.options())


def test_a_slow_model_is_not_tried_in_larger_batches_for_ever() -> None:
    machine = Machine(per_call=1.0)
    found = measure_speed(machine.run, machine.prepare, machine.options(batch=64, budget_s=2.0))
    assert found.batch == 1
    assert max(machine.calls) == 1


def test_it_ends_within_its_budget() -> None:
    machine = Machine()
    measure_speed(machine.run, machine.prepare, machine.options(repeats=10_000, budget_s=3.0))
    assert machine.now < 4.5


@pytest.mark.parametrize("calls", [3, 10, 30])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_hiccup_does_not_decide(calls: int, first: int) -> None:
    machine = Machine()
    warm_up = 100
    machine.hiccup = range(warm_up + first + 1, warm_up + first + 1 + max(1, calls // 6))
    found = measure_speed(machine.run, machine.prepare, machine.options(repeats=calls))
    assert found.p50_ms == pytest.approx(10)
    assert found.p95_ms == pytest.approx(10)
    assert not found.is_disturbed


def test_a_tail_that_stays_is_in_the_95th_percentile() -> None:
    machine = Machine()
    calls = iter(range(10_000))

    def every_sixth_is_slow(images: Images) -> None:
        machine.work(0.040 if next(calls) % 6 == 0 else 0.010)

    found = measure_speed(every_sixth_is_slow, machine.prepare, machine.options(repeats=30))
    assert found.p50_ms == pytest.approx(10)
    assert found.p95_ms > 20


@pytest.mark.parametrize("threads", [1, 4])
def test_times_of_a_busy_machine_are_estimated_from_cpu_time(threads: int) -> None:
    machine = Machine()
    machine.slowdown = 20.0
    options = machine.options(threads=threads, batch=1, watch_load=lambda: lambda: 0.8)
    disturbed = measure_speed(machine.run, machine.prepare, options)
    assert disturbed.p50_ms == pytest.approx(200)
    assert (disturbed.wall_p50_ms, disturbed.other_load) == (None, 0.8)
    assert disturbed.is_disturbed
    found = estimate_idle_speed(disturbed, machine.run, machine.prepare, options)
    assert found.p50_ms == pytest.approx(10 / threads)
    assert found.p95_ms == pytest.approx(10 / threads)
    assert found.prepare_ms == pytest.approx(5)
    assert found.end_to_end_ms == pytest.approx(5 + 10 / threads)
    assert found.images_per_s == pytest.approx(100 * threads)
    assert (found.wall_p50_ms, found.other_load, found.is_disturbed) == (disturbed.p50_ms, 0.8, True)


def test_an_estimate_is_no_longer_than_what_was_measured() -> None:
    """A model that ignores the number of threads uses more CPU time than its call takes."""
    machine = Machine()
    options = machine.options(watch_load=lambda: lambda: IDLE_LOAD)
    disturbed = measure_speed(machine.run, machine.prepare, options)
    machine.slowdown = 0.25
    machine.per_call = 0.020
    found = estimate_idle_speed(disturbed, machine.run, machine.prepare, options)
    assert (found.p50_ms, found.p95_ms) == (disturbed.p50_ms, disturbed.p95_ms)
    assert (found.end_to_end_ms, found.images_per_s) == (disturbed.end_to_end_ms, disturbed.images_per_s)
