"""Loads are real: another process burns a core."""

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from raybench.metrics.numbers import Speed
from raybench.worker.timing import ATTEMPTS, BackgroundLoad, time_when_idle

SPEED = Speed(1.0, 2.0, 1.0, 3.0, 4.0, 1, "cpu", "float32", 1)


class Scripted(BackgroundLoad):
    def __init__(self, share: float) -> None:
        self._share = share

    def share(self) -> float:
        return self._share


def scripted(*shares: float) -> Iterator[Scripted]:
    return (Scripted(share) for share in shares)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_another_process_counts() -> None:
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        load, burnt = BackgroundLoad(), psutil.Process(other.pid)
        seconds = sum(burnt.cpu_times()[:2])
        started = time.monotonic()
        spin(1.0)
        share = load.share()
        expected = (sum(burnt.cpu_times()[:2]) - seconds) / (time.monotonic() - started) / (psutil.cpu_count() or 1)
    finally:
        other.kill()
        other.wait()
    assert share >= expected - 0.05


@pytest.mark.parametrize(("shares", "kept"), [((0.05, 0.0), 0.05), ((0.5, 0.02), 0.02), ((0.5, 0.3, 0.4), 0.3)])
def test_the_first_quiet_or_the_quietest_measurement_is_kept(shares: tuple[float, ...], kept: float) -> None:
    loads = scripted(*shares)
    assert time_when_idle(lambda: SPEED, 60, lambda: next(loads)).other_load == kept


def test_attempts_are_bounded() -> None:
    taken: list[int] = []

    def take() -> Speed:
        taken.append(1)
        return SPEED

    time_when_idle(take, 60, lambda: Scripted(1.0))
    assert len(taken) == ATTEMPTS


def test_a_long_measurement_is_not_repeated() -> None:
    now = [0.0]

    def take() -> Speed:
        now[0] += 7
        return SPEED

    time_when_idle(take, 6, lambda: Scripted(1.0), lambda: now[0])
    assert now == [7]
