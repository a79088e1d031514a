"""What a run has done, and how a terminal shows it: its end in a few rows, and its board in full.

The board has the report's numbers, one row per model; the table of one line fits 120 characters.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybench.analysis.board import Board
from raybench.analysis.cost_report import format_left_out
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.analysis.queue_evaluation import QueueEvaluation
from raybench.analysis.verdict import Verdict
from raybench.config.unit import Unit
from raybench.report.column import Column, Output, Row, cells, headers
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS
from raybench.report.conditions import conditions, few
from raybench.report.tables import FEW_LINES
from raybench.runs.cost_model import LeftOut
from raybench.runs.records import Failure

WORST_SHOWN = 20
"""Lines in the table of the worst."""
WORST_TOLD = 5
"""Lines at the end of a run with many lines."""
MESSAGE_CHARS = 200
"""Characters of an error's message at the end of a run; the report has all of it."""
_EXPLAINED = (
    "aspect: what keeping it is worth in image AUROC, against squashed images; the report has all intervals, and the "
    "reason for each conclusion"
)


@dataclass(frozen=True)
class RunSummary:
    """The board of a run, and what became of its units in one command."""

    board: Board
    units: int
    """Units of the plan."""
    reused: int
    """Units that were done before."""
    failed: Mapping[str, Failure] = field(default_factory=dict)
    """Failures of this command by unit_id, without tracebacks: those are in the store."""
    uninspected: Mapping[str, Failure] = field(default_factory=dict)
    """Lines whose data inspection failed."""
    unusable: Sequence[str] = ()
    """Why nodes were left out: their GPUs do not compute, or they fail what other nodes do."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """What units were left out for, by unit_id."""

    @property
    def text(self) -> str:
        done = self.units - self.reused - len(self.failed) - len(self.left_out)
        left_out = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"{self.units} units: {done} done now, {self.reused} done before, {len(self.failed)} failed{left_out}"


def console_summary(summary: RunSummary, units: Sequence[Unit]) -> RenderableType:
    """Return the end of a run for a terminal: verdicts, what to annotate, what failed and how many units are done.

    Few lines get a row each, then all lines together get one. Many lines get one row together, then the worst get one.

    Args:
        summary: The board, and what became of the units.
        units: The units of the plan, to name those that failed.
    """
    return Group(*_verdicts(summary.board), *_annotation(summary.board.payoffs), console_outcome(summary, units))


def console_outcome(summary: RunSummary, units: Sequence[Unit]) -> RenderableType:
    """Return what failed or was left out in one command, a row for each kind, and how many units are done."""
    names = {unit.unit_id: str(unit) for unit in units}
    rows: list[Text] = []
    if summary.failed:
        first = _first({names[unit_id]: failure for unit_id, failure in summary.failed.items()})
        start = f"{len(summary.failed)} of {summary.units} units failed (details: report; retry: the same command)."
        rows.append(Text(f"{start} {first}", style="red"))
    if summary.uninspected:
        start = f"The data of {len(summary.uninspected)} lines were not inspected."
        rows.append(Text(f"{start} {_first(summary.uninspected)}", style="yellow"))
    forecast = summary.board.context.spending.forecast
    rows += [Text(text, style="yellow") for text in (format_left_out(forecast, units) if forecast else ())]
    if summary.unusable:
        rows.append(Text(f"Left out: {'; '.join(summary.unusable)}", style="yellow"))
    return Group(*rows, Text(summary.text))


def console_board(board: Board, lines: Sequence[str] = ()) -> RenderableType:
    """Return the board as tables for a terminal.

    Few lines get a verdict and a table each, then the table over all lines. Many lines get one table of the worst.

    Args:
        board: The comparison.
        lines: The only lines to show. Empty: all.
    """
    few = len(board.lines) <= FEW_LINES
    parts: list[RenderableType] = []
    for line in lines or (board.lines if few else ()):
        parts += _of_line(board, line)
    if len(board.lines) > 1 and not lines:
        parts += _verdict(board.over_all) if board.over_all else [Text("all lines", style="bold")]
        if board.critical_difference:
            parts.append(Text(board.critical_difference.sentence, style="dim"))
        parts += [_table(OVERALL_COLUMNS, board, board.overall), Text("")]
    if not few and not lines:
        parts += [*_worst(board, worst_first(board)), Text("")]
    parts += [Text(text, style="dim") for text in (_EXPLAINED, *conditions(board))]
    return Group(*parts)


def _verdicts(board: Board) -> list[Text]:
    over_all = _verdict(board.over_all) if board.over_all else []
    if len(board.lines) <= FEW_LINES:
        noted: dict[str, list[str]] = {}
        for verdict in board.verdicts:
            for note in verdict.notes:
                noted.setdefault(note, []).append(verdict.line)
        shared = {note: lines for note, lines in noted.items() if len(lines) > 1}
        rows = [text for verdict in board.verdicts for text in _verdict(verdict, shared)]
        return [
            *rows,
            *(Text(f"{', '.join(lines)}: {note}", style="yellow") for note, lines in shared.items()),
            *over_all,
        ]
    summaries = worst_first(board)
    worst = [text for summary in summaries[:WORST_TOLD] for text in _verdict(board.verdict_on(summary.line))]
    told = min(WORST_TOLD, len(summaries))
    return [*over_all, Text(f"{poor_lines(summaries)} The worst {told} of {len(summaries)}:"), *worst]


def _verdict(verdict: Verdict, told: Container[str] = ()) -> list[Text]:
    """The sentence and the notes that are not among those `told` elsewhere."""
    notes = [Text(note, style="yellow") for note in verdict.notes if note not in told]
    return [Text(verdict.sentence, style="bold"), *notes]


def _annotation(queues: Sequence[QueueEvaluation]) -> list[Text]:
    """A row on the images that a person should annotate; none for a run without scores."""
    if not queues:
        return []
    flagged, picked = sum(queue.flagged for queue in queues), sum(queue.picked for queue in queues)
    if not flagged:
        return [Text("Nothing to annotate: no image is flagged.")]
    by_line = few([f"{queue.line} {queue.picked}" for queue in queues if queue.picked])
    text = f"Annotate {picked} of {flagged} flagged images: {by_line}."
    if suspicious := sum(queue.suspicious for queue in queues):
        text += f" Flagged OK training images, perhaps mislabelled: {suspicious}."
    return [Text(text)]


def _first(failures: Mapping[str, Failure]) -> str:
    """Return the first failure by name; a terminal is no place for all of many."""
    name, failure = next(iter(failures.items()))
    message = " ".join(failure.message.split())
    message = message if len(message) <= MESSAGE_CHARS else f"{message[:MESSAGE_CHARS]}…"
    others = "First: " if len(failures) > 1 else ""
    return f"{others}{name} in {failure.phase}, attempt {failure.attempt}: {failure.error_type}: {message}"


def _of_line(board: Board, line: str) -> list[RenderableType]:
    verdict = board.verdict_on(line)
    rows = board.rows_of(line)
    table = _table(LINE_COLUMNS, board, rows)
    for shown, row in zip(table.rows, rows, strict=True):
        shown.style = "bold" if row.model == verdict.run else None
    payoff = board.payoff_on(line)
    return [
        *_verdict(verdict),
        table,
        *([Text(payoff.sentence, style="dim")] if payoff else []),
        Text(""),
    ]


def _worst(board: Board, summaries: Sequence[LineSummary]) -> list[RenderableType]:
    table = _table(SUMMARY_COLUMNS, board, summaries[:WORST_SHOWN])
    parts: list[RenderableType] = [Text(f"Worst lines first. {poor_lines(summaries)}", style="bold"), table]
    more = len(summaries) - WORST_SHOWN
    if more > 0:
        text = f"{more} more lines: all are in index.html; `raybench report … --line NAME` shows one in full"
        parts.append(Text(text, style="dim"))
    return parts


def _table(columns: Sequence[Column[Row]], board: Board, rows: Sequence[Row]) -> Table:
    table = Table(
        *headers(columns, Output.TERMINAL), box=None, header_style="dim", pad_edge=False, collapse_padding=True
    )
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(Text, cells(columns, board, row, Output.TERMINAL)))
    return table
