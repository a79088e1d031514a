"""Data inspections of lines: read a stored inspection, or make and store one.

An inspection is stored beside the line's manifest. A run does not write to lines that it only reads: their inspections
are stored with the run, and so is the reason why an inspection failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from raybench.config.plan import Plan
from raybench.data.inspection.inspection import Inspection, inspect, read_inspection, write_inspection
from raybench.data.manifest import Manifest
from raybench.errors import ObjectMissing, StoreDenied
from raybench.runs.ledger import READERS
from raybench.runs.records import Failure
from raybench.runs.run import RunStore, decode, encode
from raybench.store import Store


def inspect_line(
    lines: Store, manifest: Manifest, threads: int = 1, progress: Callable[[int], None] = lambda images: None
) -> Inspection:
    """Return the inspection of a line's images, and store a new one if the store may be written to.

    Two processes that inspect a line at the same time write the same bytes.

    Args:
        lines: Store of packed lines.
        manifest: The line.
        threads: Threads that decode images.
        progress: Called with the number of images of each step.

    Raises:
        IntegrityError: Stored bytes are damaged.
        StoreError: The store fails.
    """
    stored = read_inspection(lines, manifest)
    if stored is not None:
        return stored
    inspection = inspect(lines, manifest, threads, progress)
    with contextlib.suppress(StoreDenied):
        write_inspection(lines, inspection)
    return inspection


def inspect_in_run(run: RunStore, lines: Store, manifest: Manifest, own: bool, threads: int = 1) -> None:
    """Inspect the line unless it has been inspected.

    Args:
        run: The run that needs the inspection.
        lines: Store of packed lines.
        manifest: The line.
        own: True if the line is in the run's own store and may be written to.
        threads: Threads that decode images.

    Raises:
        IntegrityError: Stored bytes are damaged.
        StoreError: The store fails.
    """
    if isinstance(inspection_in(run, lines, manifest), Inspection):
        return
    inspection = inspect(lines, manifest, threads, kept=lines if own else run.lines)
    try:
        write_inspection(lines if own else run.lines, inspection)
    except StoreDenied:
        write_inspection(run.lines, inspection)


def inspection_in(run: RunStore, lines: Store, manifest: Manifest) -> Inspection | Failure | None:
    """Return the line's inspection, the failure of the latest attempt, or None if there was no attempt.

    Raises IntegrityError for damaged bytes, and the store's own errors.
    """
    stored = read_inspection(lines, manifest) or read_inspection(run.lines, manifest)
    return stored or failed_inspection(run, manifest.line)


def inspections_in(run: RunStore, plan: Plan) -> dict[str, Inspection | Failure | None]:
    """Return `inspection_in` of each line of the plan, in the plan's order."""
    manifests = plan.manifests.values()
    with ThreadPoolExecutor(READERS) as pool:
        inspections = pool.map(lambda line: inspection_in(run, plan.lines_of(line.line), line), manifests)
        return dict(zip(plan.manifests, inspections, strict=True))


def failed_inspection(run: RunStore, line: str) -> Failure | None:
    """Return the failure of the latest inspection that failed, or None. It does not count once an inspection exists.

    Raises IntegrityError for damaged bytes.
    """
    key = _failure_key(line)
    try:
        return decode(Failure, run.lines.get(key), key)
    except ObjectMissing:
        return None


def record_failed_inspection(run: RunStore, line: str, failure: Failure) -> None:
    run.lines.put(_failure_key(line), encode(failure))


def _failure_key(line: str) -> str:
    return f"{line}/failure.json"
