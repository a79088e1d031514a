from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from raybench.scheduler.stop import Stop, stoppable
from raybench.scheduler.timeout import EXIT_CODE, time_limit

HANG = """
import sys, time
from raybench.scheduler import timeout
timeout.GRACE_S = 1.0
def on_timeout(stack):
    {on_timeout}
with timeout.time_limit(0.5, on_timeout):
    {hang}
print("came back")
"""


def hang(on_timeout: str, hang: str) -> subprocess.CompletedProcess[str]:
    code = HANG.format(on_timeout=on_timeout, hang=hang)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_last_words_of_where_it_was() -> None:
    done = hang("print(stack, flush=True)", "time.sleep(60)")
    assert done.returncode == EXIT_CODE
    assert 'File "<string>", line 8' in done.stdout
    assert "came back" not in done.stdout


def test_an_on_timeout_that_hangs_does_not_keep_the_process() -> None:
    done = hang("time.sleep(60)", "time.sleep(60)")
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(0.2, lambda stack: None):
        pass
    time.sleep(0.4)


def test_without_a_limit() -> None:
    with time_limit(None, lambda stack: None):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_a_second_one_obeyed(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "1.1")
    before = signal.getsignal(number)
    with stoppable() as stop:
        assert not stop.asked
        assert not stop.overdue
        os.kill(os.getpid(), number)
        assert stop.asked == number.name
        time.sleep(0.2)
        assert stop.overdue
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_the_wait_of_ray_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S", raising=False)
    stop = Stop()
    stop.ask(signal.SIGTERM)
    assert not stop.overdue
