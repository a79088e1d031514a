"""Live bars for packing and for scoring new images, on a terminal and in a notebook."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sized

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raybench.data import pack
from raybench.data.manifest import ShardInfo
from raybench.worker.predict import Prediction


def console_for(progress: bool) -> Console | None:
    """Return where to show progress: on stderr, or nowhere."""
    return Console(stderr=True) if progress else None


def is_live(console: Console | None) -> bool:
    """Whether a bar can be drawn on `console`: rich needs ipywidgets for one in a notebook."""
    if console is None:
        return False
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


@contextlib.contextmanager
def pack_bar(line: str, console: Console | None) -> Iterator[Callable[[pack.Progress], None]]:
    """Yield what to call with the progress of packing `line`. console: where the bar is drawn; None: nowhere."""
    columns = (
        TextColumn("pack {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not is_live(console)) as bars:
        bar = bars.add_task(line, total=None, speed="")

        def show(now: pack.Progress) -> None:
            mb_s = now.bytes_done / 1e6 / max(bars.tasks[0].elapsed or 0.0, 1e-3)
            bars.update(bar, completed=now.done, total=now.total, speed=f"{mb_s:.0f} MB/s")

        yield show


@contextlib.contextmanager
def score_bar(prediction: Prediction, console: Console | None) -> Iterator[Callable[[ShardInfo], None]]:
    """Yield what to call with each shard that is done. console: where the bar is drawn; None: nowhere."""
    shards, waiting = prediction.manifest.shards, prediction.waiting()
    columns = (TextColumn("score images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not is_live(console)) as bars:
        total = sum(shard.rows for shard in shards)
        bar = bars.add_task("", total=total, completed=total - sum(shard.rows for shard in waiting))
        yield lambda shard: bars.advance(bar, shard.rows)


@contextlib.contextmanager
def task_bar(what: str, tasks: Sized, waiting: Sized, console: Console | None) -> Iterator[Callable[[], None]]:
    """Yield what to call when one of the waiting tasks has ended. console: where the bar is drawn; None: nowhere."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not is_live(console)) as bars:
        bar = bars.add_task("", total=len(tasks), completed=len(tasks) - len(waiting))
        yield lambda: bars.advance(bar)
