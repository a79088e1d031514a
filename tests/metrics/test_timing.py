from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from raybench.metrics.timing import TimingOptions, measure_speed

Images = npt.NDArray[np.uint8]


class OutOfMemoryError(RuntimeError):
    pass


class Machine:
    """A clock that only moves when something works."""

    def __init__(self, largest: int = 100, per_call: float = 0.0) -> None:
        self.now, self.per_call = 0.0, per_call
        self.calls: list[int] = []
        self.waits = 0
        self.largest = largest

    def run(self, images: Images) -> None:
        if len(images) > self.largest:
            raise OutOfMemoryError("no")
        self.calls.append(len(images))
        self.now += self.per_call + 0.010 * len(images)

    def prepare(self, index: int) -> Images:
        self.now += 0.005
        return np.zeros((1, 4, 4, 3), np.uint8)

    def wait(self) -> None:
        self.waits += 1

    def options(self, **more: object) -> TimingOptions:
        return TimingOptions("box", clock=lambda: self.now, synchronize=self.wait, **more)  # type: ignore[arg-type]


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
