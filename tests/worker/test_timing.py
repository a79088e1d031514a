"""Loads are real: another process burns a core."""

import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from raybench.metrics.numbers import IDLE_LOAD, Speed
from raybench.worker import timing
from raybench.worker.timing import ATTEMPTS, BackgroundLoad, time_when_idle

SPEED = Speed(1.0, 2.0, 1.0, 3.0, 4.0, 1, "cpu", "float32", 1)
DISTURBED = replace(SPEED, other_load=1.0)


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


def test_what_the_other_cores_take_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 cores others use 5: all of what this process has if that is all 8, a quarter of the 4 that it has to 5."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(timing, "_other_cpu_s", lambda: 5 * now[0])
    loads = [BackgroundLoad(cores) for cores in (None, 8, 4, 3, 2, 16)]
    now[0] = 2.0
    assert [load.share() for load in loads] == [5 / 8, 5 / 8, 1 / 4, 0.0, 0.0, 5 / 8]


@pytest.mark.parametrize(("shares", "kept"), [((0.05, 0.0), 0.05), ((0.5, 0.02), 0.02), ((0.5, 0.3, 0.4), 0.3)])
def test_the_first_quiet_or_the_quietest_measurement_is_kept(shares: tuple[float, ...], kept: float) -> None:
    loads = iter(shares)
    found = time_when_idle(lambda: replace(SPEED, other_load=next(loads)), 60)
    assert found.other_load == kept
    assert found.is_disturbed == (kept >= IDLE_LOAD)


def test_attempts_are_bounded() -> None:
    taken: list[int] = []

    def take() -> Speed:
        taken.append(1)
        return DISTURBED

    time_when_idle(take, 60)
    assert len(taken) == ATTEMPTS


def test_a_long_measurement_is_not_repeated() -> None:
    now = [0.0]

    def take() -> Speed:
        now[0] += 7
        return DISTURBED

    time_when_idle(take, 6, lambda: now[0])
    assert now == [7]
