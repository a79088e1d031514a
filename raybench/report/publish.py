"""The report of a run in its store: board, flags and page; and a local copy of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from raybench.analysis.anomaly_types.stored import with_anomaly_types
from raybench.analysis.board import Board, board_json
from raybench.analysis.findings import Findings, analyze
from raybench.config.plan import Plan
from raybench.errors import InputError
from raybench.report.html import render
from raybench.report.inspection import section
from raybench.report.pictures import read_pictures
from raybench.report.tables import board_csv, board_md, flags_parquet
from raybench.runs.costs import write_costs
from raybench.runs.ledger import Ledger
from raybench.runs.run import RunStore


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
    page = render(board, flags, pictures, findings.images, sections, findings.held_out, findings.slices)
    run.put_report("index.html", page.encode())


def publish_again(plan: Plan) -> Board:
    """Write the report of everything done so far, and return its board.

    Raises:
        InputError: No unit of the plan has ended, as after labels came back; the report that is there stays.
    """
    name = plan.experiment.name
    run = RunStore(plan.store, name, Ledger.read(RunStore(plan.store, name)))
    findings = analyze(plan, run, datetime.now(UTC).isoformat(timespec="seconds"))
    if not findings.board.rows:
        raise InputError(
            f"no unit of {name} has ended on its lines as they are packed now; `raybench run` goes on with them, and "
            "trains nothing if only labels have changed"
        )
    write(plan, run, findings)
    return findings.board


def download(run: RunStore, folder: Path) -> Path:
    """Copy the report with its folders to a local folder, and return the folder.

    Raises:
        InputError: A key leaves the report's folder; nothing is written for it.
    """
    prefix = f"{run.root}/report/"
    for item in run.store.list(prefix):
        data = run.store.get(item.key)
        path = folder / item.key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def copy_report(plan: Plan, folder: Path) -> Path:
    """Copy the report into `<folder>/<run>/report` and return the path of its page."""
    return download(RunStore.of(plan), folder / plan.experiment.name / "report") / "index.html"
