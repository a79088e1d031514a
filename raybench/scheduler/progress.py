"""Show progress: one live bar per phase on a terminal, a row every LOG_EVERY_S in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from raybench.report.progress import is_live
from raybench.runs.records import Phase
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.runner import Watcher

LOG_EVERY_S = 30.0
_PHASES: tuple[Phase, ...] = ("inspect", "fit", "train", "score", "measure")


@contextlib.contextmanager
def shown(console: Console) -> Iterator[Watcher]:
    """Make a watcher for `run_plan` that writes to `console`."""
    if not is_live(console):
        yield _Log(console)
        return
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._rate = _Rate()

    def __call__(self, backlog: Backlog) -> None:
        for phase in _PHASES:
            tally = backlog.tallies.get(phase)
            if tally is None:  # no line is left to inspect, or nothing to fit on several lines
                continue
            if phase not in self._bars:
                self._bars[phase] = self._progress.add_task(phase, total=tally.total, rate="")
            speed = f"{self._rate.of(backlog):.1f} images/s" if phase == "score" else ""
            failed = f" {tally.failed} failed" if tally.failed else ""
            self._progress.update(self._bars[phase], completed=tally.done + tally.failed, rate=speed + failed)


class _Log:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = _Rate()
        self._next = 0.0
        self._last_text = ""

    def __call__(self, backlog: Backlog) -> None:
        parts = [f"{phase} {tally.done}/{tally.total}" for phase, tally in backlog.tallies.items()]
        failed = sum(tally.failed for tally in backlog.tallies.values())
        text = ", ".join(parts) + (f", {failed} failed" if failed else "")
        finished = all(tally.done + tally.failed >= tally.total for tally in backlog.tallies.values())
        if text == self._last_text or (time.monotonic() < self._next and not finished):
            return
        self._console.print(f"{text}, {self._rate.of(backlog):.1f} img/s", highlight=False, soft_wrap=True)
        self._last_text, self._next = text, time.monotonic() + LOG_EVERY_S


class _Rate:
    """Images scored a second since the first call; images of earlier runs do not count."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def of(self, backlog: Backlog) -> float:
        now, images = time.monotonic(), backlog.tallies["score"].images
        if self._start is None:
            self._start = (now, images)
        elapsed = now - self._start[0]
        return (images - self._start[1]) / elapsed if elapsed > 0 else 0.0
