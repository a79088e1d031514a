"""A time limit on a task. It ends the process, because no exception reaches a call that does not return."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

GRACE_S = 30.0
EXIT_CODE = 70


@contextlib.contextmanager
def time_limit(seconds: float | None, on_timeout: Callable[[str], None]) -> Iterator[None]:
    """End this process with EXIT_CODE when the block takes longer than `seconds`.

    Args:
        seconds: None: no limit.
        on_timeout: called before the end, in a thread, with the stack of the thread that hangs. Where a call never
            releases the interpreter, so that no thread can run, the process ends GRACE_S later without it.
    """
    if seconds is None:
        yield
        return
    thread_id = threading.get_ident()

    def end() -> None:
        try:
            on_timeout("".join(traceback.format_stack(sys._current_frames()[thread_id])))
        finally:
            os._exit(EXIT_CODE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
