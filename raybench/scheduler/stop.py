"""Stop a run in good order on SIGTERM or SIGINT; a second signal ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

JOB_STOP_WAIT_S = 3.0  # Ray's default between the SIGTERM of `ray job stop` and its SIGKILL
_SHUTDOWN_S = 1.0


class Stop:
    """Whether a signal has asked the run to stop, and the time that is left since."""

    def __init__(self) -> None:
        self.asked = ""
        """The signal's name; empty while none has come."""
        self._end = float("inf")

    def ask(self, number: int) -> None:
        """Note a signal. Raises KeyboardInterrupt when it is not the first."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
        allowed = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S") or JOB_STOP_WAIT_S)
        self._end = time.monotonic() + max(allowed - _SHUTDOWN_S, 0.0)

    @property
    def left_s(self) -> float:
        """Seconds for which to wait for running tasks."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def overdue(self) -> bool:
        """Whether the time is up."""
        return self.left_s == 0.0


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Note SIGTERM and SIGINT in a Stop while the block runs.

    Enter it after `ray.init`, whose own handlers would replace these. Signals can be caught in the main thread only;
    in another thread nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.ask(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
