"""A line's data inspection as a step of a run: read where it stands, else made and put beside the manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from raybench.errors import StoreDenied
from raybench.lines.manifest import Manifest
from raybench.lines.quality import Inspection, inspect, read_inspection, write_inspection
from raybench.store import Store


def inspect_line(
    lines: Store, manifest: Manifest, threads: int = 1, progress: Callable[[int], None] = lambda images: None
) -> Inspection:
    """The inspection of these very images. Two that make it at once write the same bytes.

    From lines that may be read only it is made each time: nothing rests on its being kept.
    Raises IntegrityError, and the store's own errors.
    """
    standing = read_inspection(lines, manifest)
    if standing is not None:
        return standing
    made = inspect(lines, manifest, threads, progress)
    with contextlib.suppress(StoreDenied):
        write_inspection(lines, made)
    return made
