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

from raybench.analysis.cost_report import duration
from raybench.report.progress import is_live
from raybench.runs.records import Phase
from raybench.scheduler.backlog import Backlog
from raybench.scheduler.runner import Watcher

LOG_EVERY_S = 30.0
LEAST_SHARE = 0.02  # of the work that has to be done before the time left is told
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
        self._rate, self._left = _Rate(), _TimeLeft()
        self._next = 0.0
        self._last_text = ""

    def __call__(self, backlog: Backlog) -> None:
        tallies = {phase: backlog.tallies[phase] for phase in _PHASES if phase in backlog.tallies}
        parts = [f"{phase} {tally.done}/{tally.total}" for phase, tally in tallies.items()]
        failed = sum(tally.failed for tally in backlog.tallies.values())
        text = ", ".join(parts) + (f", {failed} failed" if failed else "")
        finished = all(tally.done + tally.failed >= tally.total for tally in backlog.tallies.values())
        if text == self._last_text or (time.monotonic() < self._next and not finished):
            return
        left_s = self._left.of(backlog)
        left = f", about {duration(left_s)} left" if left_s else ""
        self._console.print(f"{text}, {self._rate.of(backlog):.1f} img/s{left}", highlight=False, soft_wrap=True)
        self._last_text, self._next = text, time.monotonic() + LOG_EVERY_S


class _TimeLeft:
    """How long a run still takes, at the speed since the first call."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def of(self, backlog: Backlog) -> float | None:
        """Return the seconds; None before there is a speed, or where nothing on record tells what is left."""
        now, (done_s, left_s) = time.monotonic(), backlog.work_s()
        if self._start is None:
            self._start = (now, done_s)
        since, worked_s = now - self._start[0], done_s - self._start[1]
        return since * left_s / worked_s if worked_s >= LEAST_SHARE * (worked_s + left_s) > 0 else None


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
