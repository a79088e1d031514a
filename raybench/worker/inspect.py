"""A line's data inspection: read where it stands, else made and kept.

It is put beside the line's manifest. Lines that a run only reads are not written to: their inspection is kept with the
run, and so is the reason why an inspection failed.
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
from raybench.runs.run import Run, decode, encode
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


def inspect_in_run(run: Run, lines: Store, manifest: Manifest, own: bool, threads: int = 1) -> None:
    """Inspect the line unless that has been done. own: the line lies in the run's own store, and may be written to.

    Raises IntegrityError, and the store's own errors.
    """
    if isinstance(inspection_in(run, lines, manifest), Inspection):
        return
    made = inspect(lines, manifest, threads)
    try:
        write_inspection(lines if own else run.lines, made)
    except StoreDenied:
        write_inspection(run.lines, made)


def inspection_in(run: Run, lines: Store, manifest: Manifest) -> Inspection | Failure | None:
    """What `run` knows of the line's data: its inspection, why the latest try failed, or nothing.

    Raises IntegrityError, and the store's own errors.
    """
    found = read_inspection(lines, manifest) or read_inspection(run.lines, manifest)
    return found or failed_inspection(run, manifest.line)


def inspections_in(run: Run, plan: Plan) -> dict[str, Inspection | Failure | None]:
    """`inspection_in` of every line of the plan, in its order."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda one: inspection_in(run, plan.lines_of(one.line), one), plan.manifests.values())
        return dict(zip(plan.manifests, found, strict=True))


def failed_inspection(run: Run, line: str) -> Failure | None:
    """Why the latest inspection that failed did; it means nothing where one stands. Raises IntegrityError."""
    key = _failure_key(line)
    try:
        return decode(Failure, run.lines.get(key), key)
    except ObjectMissing:
        return None


def record_failed_inspection(run: Run, line: str, failure: Failure) -> None:
    run.lines.put(_failure_key(line), encode(failure))


def _failure_key(line: str) -> str:
    return f"{line}/failure.json"
