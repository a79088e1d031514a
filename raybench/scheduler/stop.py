"""SIGTERM and SIGINT ask a run to end in good order; a second one ends it at once."""

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
    """What was asked. asked: the signal's name, empty while none came."""

    def __init__(self) -> None:
        self.asked = ""
        self._end = float("inf")

    def ask(self, number: int) -> None:
        """Raises KeyboardInterrupt when it is not the first time."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
        allowed = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S") or JOB_STOP_WAIT_S)
        self._end = time.monotonic() + max(allowed - _SHUTDOWN_S, 0.0)

    @property
    def left_s(self) -> float:
        """How long running tasks may still be waited for."""
        return max(self._end - time.monotonic(), 0.0)

    @property
    def overdue(self) -> bool:
        return self.left_s == 0.0


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """While the block runs, SIGTERM and SIGINT are noted in the Stop. To be entered after `ray.init`, whose own
    handlers would replace these. In a thread that is not the main one signals cannot be caught: nothing changes."""
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
