"""What several commands print: results on stdout, all else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raybench.data import pack as packing
from raybench.data.manifest import Manifest

SHOWN_REJECTS = 20
LOG_COLUMNS = 160

out, err = Console(), Console(stderr=True)
if not out.is_terminal:
    out.width = LOG_COLUMNS


@contextlib.contextmanager
def pack_bar(line: str) -> Iterator[Callable[[packing.Progress], None]]:
    """What to call with the progress of packing `line`: a live bar on a terminal."""
    columns = (
        TextColumn("pack {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        bar = bars.add_task(line, total=None, speed="")

        def show(now: packing.Progress) -> None:
            mb_s = now.bytes_done / 1e6 / max(bars.tasks[0].elapsed or 0.0, 1e-3)
            bars.update(bar, completed=now.done, total=now.total, speed=f"{mb_s:.0f} MB/s")

        yield show


def print_rejects(manifest: Manifest, console: Console = out) -> None:
    for reject in manifest.rejects[:SHOWN_REJECTS]:
        console.print(f"rejected {reject.path}: {reject.reason}: {reject.detail}", style="yellow", markup=False)
    if len(manifest.rejects) > SHOWN_REJECTS:
        console.print(
            f"and {len(manifest.rejects) - SHOWN_REJECTS} more; the manifest lists all of them",
            style="yellow",
        )


def print_json(value: Any) -> None:
    """One JSON document on stdout. value: JSON bytes that stand already, or plain data."""
    text = value.decode() if isinstance(value, bytes) else json.dumps(value, indent=1, allow_nan=False) + "\n"
    sys.stdout.write(text)
