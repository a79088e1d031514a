"""A time limit on a task that hangs: no exception reaches a call that does not come back, so its process ends."""

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
def time_limit(seconds: float | None, last_words: Callable[[str], None]) -> Iterator[None]:
    """End this process when the block takes longer than `seconds`, after `last_words` of where it hangs (a stack).

    A thread of ours says them; where the interpreter is never let go, so that no thread can run, the process ends
    GRACE_S later without them.
    """
    if seconds is None:
        yield
        return
    hanging = threading.get_ident()

    def end() -> None:
        try:
            last_words("".join(traceback.format_stack(sys._current_frames()[hanging])))
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
