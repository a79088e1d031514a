"""The report of a run in its store: board, flags and page; whether it is up to date; and a local copy of it."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from raybench.analysis.anomaly_types.stored import with_anomaly_types
from raybench.analysis.board import Board, board_from_json, board_json
from raybench.analysis.findings import Findings, analyze
from raybench.config.plan import Plan
from raybench.errors import InputError, ObjectMissing
from raybench.report.gallery import FILES
from raybench.report.html import render
from raybench.report.inspection import section
from raybench.report.pictures import read_pictures
from raybench.report.studies import Studies
from raybench.report.tables import board_csv, board_md, flags_parquet
from raybench.runs.costs import write_costs
from raybench.runs.ledger import Ledger
from raybench.runs.records import Failure
from raybench.runs.run import RunStore, versions
from raybench.store import digest
from raybench.worker.inspect import inspections_in

WRITERS = 8
KEPT_S = 24 * 3600
"""How long pictures are kept that the page no longer shows: another driver's page, or an open one, may show them."""


def publish(plan: Plan, run: RunStore, created: str) -> Board:
    """Compare everything committed so far, write the report, and return its board."""
    findings = analyze(plan, run, created)
    write(plan, run, findings)
    return findings.board


def write(plan: Plan, run: RunStore, findings: Findings) -> None:
    """Write the report below `runs/<name>/report/`, and what the units took to `costs/<name>.json`.

    The anomaly types of the first flags of each line are found here, because they are kept in the store as well.
    """
    write_costs(run, ((unit.unit, unit.result) for unit in findings.finished))
    board = findings.board
    flags = with_anomaly_types(plan, run, findings.flags)
    pictures = list(read_pictures(plan, run, board, findings.images, flags))
    sections = {line: section(findings.inspections[line], manifest) for line, manifest in plan.manifests.items()}
    run.put_report("board.json", board_json(board))
    run.put_report("board.csv", board_csv(board))
    run.put_report("board.md", board_md(board).encode())
    run.put_report("flags.parquet", flags_parquet(flags))
    studies = Studies(findings.slices, findings.curves, findings.robustness)
    page = render(board, flags, pictures, findings.images, sections, findings.held_out, studies)
    files = {name: data for picture in pictures for name, data in picture.files.items()}
    root = f"{run.root}/report/"
    there = {item.key.removeprefix(root): item.modified for item in run.store.list(f"{root}{FILES}/")}
    with ThreadPoolExecutor(WRITERS) as pool:  # before the page that shows them
        list(pool.map(lambda name: run.put_report(name, files[name]), files.keys() - there.keys()))
    run.put_report("index.html", page.encode())
    now = run.store.clock()
    for name in (name for name, written in there.items() if name not in files and now - written > KEPT_S):
        run.store.delete(f"{root}{name}")


def publish_again(plan: Plan) -> Board:
    """Write the report of everything done so far, and return its board.

    Raises:
        InputError: No unit of the plan has ended, as after labels came back; the report that is there stays.
    """
    run, findings = _analyze_again(plan)
    write(plan, run, findings)
    return findings.board


def bring_up_to_date(plan: Plan) -> tuple[RunStore, Findings]:
    """Return what the run's commits mean, and write the report if it says anything else. Raises as `publish_again`."""
    run, findings = _analyze_again(plan)
    if cached_report(plan, run) is None:
        write(plan, run, findings)
        cache_report(plan, run, findings.board)
    return run, findings


def _analyze_again(plan: Plan) -> tuple[RunStore, Findings]:
    name = plan.experiment.name
    run = RunStore(plan.store, name, Ledger.read(RunStore.of(plan), whole=True))
    findings = analyze(plan, run, datetime.now(UTC).isoformat(timespec="seconds"))
    if not findings.board.rows:
        raise InputError(
            f"no unit of {name} has ended on its lines as they are packed now; `raybench run` goes on with them, and "
            "trains nothing if only labels have changed"
        )
    return run, findings


def cache_report(plan: Plan, run: RunStore, board: Board) -> None:
    """Note what the report just published rests on, unless something failed or is still to be done.

    It is built again only if a commit, the experiment or a version has changed.
    """
    failed = any(row.failures for row in board.rows) or any(
        isinstance(found, Failure) for found in inspections_in(run, plan).values()
    )
    if not board.context.pending and not failed:
        sha256 = hashlib.sha256(run.get_report("board.json")).hexdigest()
        run.store.put(_key(run), json.dumps({"basis": _basis(plan), "board": sha256}).encode())


def publish_studies(plan: Plan, run: RunStore) -> None:
    """Have the report show what was measured besides the comparison: one that is up to date in all else is built again.

    Any other is built by the next command that needs it.
    """
    if cached_report(plan, run):
        cache_report(plan, run, publish_again(plan))


def cached_report(plan: Plan, run: RunStore) -> Board | None:
    """Return the published board, or None if the report has to be built."""
    try:
        note = json.loads(run.store.get(_key(run)))
        data = run.get_report("board.json")
        is_current = note["basis"] == _basis(plan) and note["board"] == hashlib.sha256(data).hexdigest()
        return board_from_json(data) if is_current else None
    except (ObjectMissing, InputError, ValueError, KeyError, TypeError):
        return None


def _basis(plan: Plan) -> str:
    units = [[unit.unit_id, unit.model] for unit in plan.units]
    price, signals = plan.experiment.resources.price_per_hour, plan.experiment.annotation.signals
    return digest(
        [plan.experiment.digest, price, signals, units, dict(plan.squashed), sorted(plan.asides), dict(versions())]
    )


def _key(run: RunStore) -> str:
    return f"{run.root}/ledger/report.json"


def download(run: RunStore, folder: Path) -> Path:
    """Copy the report with its folders to a local folder, and return the folder. Pictures that it has stay.

    Raises:
        InputError: A key leaves the report's folder; nothing is written for it.
    """
    prefix = f"{run.root}/report/"
    for item in run.store.list(prefix):
        name = item.key.removeprefix(prefix)
        path = folder / name
        if name.startswith(f"{FILES}/") and path.is_file() and path.stat().st_size == item.size:
            continue  # a picture's name is that of its bytes
        data = run.store.get(item.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def copy_report(plan: Plan, folder: Path) -> Path:
    """Copy the report into `<folder>/<run>/report` and return the path of its page."""
    return download(RunStore.of(plan), folder / plan.experiment.name / "report") / "index.html"
