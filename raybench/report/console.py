"""The board on a terminal: the report's numbers, one row a model, in 120 columns for one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybench.analysis.board import Board
from raybench.analysis.decision import format_number
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.analysis.rows import BoardRow
from raybench.report.conditions import conditions
from raybench.report.tables import (
    FEW_LINES,
    OVERALL_HEADERS,
    SUMMARY_HEADERS,
    overall_cells,
    rank,
    short,
    summary_cells,
)

WORST_SHOWN = 20  # of many lines
_NO_ROOM = ("weights", "pixel AUROC", "test min", "cost")  # of OVERALL_HEADERS
_LINE = (
    "model", "rank", "image AUROC", "recall", "false alarms", "defects found", "AU-PRO", "heat map", "ms/image", "MB",
    "aspect", "conclusion",
)  # fmt: skip
_EXPLAINED = (
    "aspect: what keeping it is worth in image AUROC, against squashed images; the report has all intervals, and the "
    "reason for each conclusion"
)


def console_board(board: Board, lines: Sequence[str] = ()) -> RenderableType:
    """Tables for a terminal: verdict and numbers per line, then all lines; of many lines the worst, in one table.

    lines: those to show, and no others.
    """
    few = len(board.lines) <= FEW_LINES
    parts: list[RenderableType] = []
    for line in lines or (board.lines if few else ()):
        parts += _of_line(board, line)
    if len(board.lines) > 1 and not lines:
        parts.append(Text(board.over_all.sentence if board.over_all else "all lines", style="bold"))
        parts += [_overall(board), Text("")]
    if not few and not lines:
        parts += [*_worst(worst_first(board)), Text("")]
    parts += [Text(text, style="dim") for text in (_EXPLAINED, *conditions(board))]
    return Group(*parts)


def _of_line(board: Board, line: str) -> list[RenderableType]:
    verdict = board.verdict_on(line)
    table = _table(_LINE)
    for row in board.rows_of(line):
        table.add_row(*map(Text, _cells(board, row)), style="bold" if row.model == verdict.run else None)
    payoff = board.payoff_on(line)
    return [
        Text(verdict.sentence, style="bold"),
        table,
        *([Text(payoff.sentence, style="dim")] if payoff else []),
        Text(""),
    ]


def _cells(board: Board, row: BoardRow) -> list[str]:
    """The cells of _LINE. Only a model without numbers has the reason for its grade here."""
    quality, verdict = row.quality, board.verdict_on(row.line)
    gain = row.non_square.gain
    conclusion = [verdict.grades.get(row.model), None if quality else verdict.conclusions.get(row.model)]
    return [
        row.model,
        rank(verdict, row.model),
        format_number(quality.image_auroc) if quality else "–",
        format_number(quality.recall) if quality else "–",
        short(quality.false_alarm_rate) if quality else "–",
        short(row.regions.all) if row.regions else "–",
        short(quality.au_pro) if quality else "–",
        row.heat.word if row.heat else "–",
        f"{row.speed.p50_ms:.1f}" if row.speed else "–",
        f"{row.size.disk_mb:.1f}" if row.size else "–",
        f"{gain.value:+.3f}" if gain and gain.value is not None else "–",
        ": ".join(words for words in conclusion if words),
    ]


def _overall(board: Board) -> Table:
    kept = [at for at, header in enumerate(OVERALL_HEADERS) if header not in _NO_ROOM]
    table = _table([OVERALL_HEADERS[at] for at in kept])
    for cells in overall_cells(board):
        table.add_row(*(Text(cells[at]) for at in kept))
    return table


def _worst(summaries: Sequence[LineSummary]) -> list[RenderableType]:
    table = _table(SUMMARY_HEADERS)
    for summary in summaries[:WORST_SHOWN]:
        table.add_row(*map(Text, summary_cells(summary)))
    parts: list[RenderableType] = [Text(f"Worst lines first. {poor_lines(summaries)}", style="bold"), table]
    more = len(summaries) - WORST_SHOWN
    if more > 0:
        text = f"{more} more lines: all are in index.html; `raybench report … --line NAME` shows one in full"
        parts.append(Text(text, style="dim"))
    return parts


def _table(headers: Sequence[str]) -> Table:
    table = Table(*headers, box=None, header_style="dim", pad_edge=False, collapse_padding=True)
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    return table
