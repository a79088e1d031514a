"""The report's files that hold tables: `board.csv`, `board.md` and `flags.parquet`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, fields

import pandas as pd

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag
from raybench.analysis.line_summary import poor_lines, worst_first
from raybench.analysis.verdict import Verdict
from raybench.report.column import Column, Row, cells, headers
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS, board_frame
from raybench.report.conditions import conditions

FEW_LINES = 6
"""Reports of more lines list them in short, the worst first."""


def board_csv(board: Board) -> bytes:
    """Return `board_frame` as CSV: the report's `board.csv`."""
    return board_frame(board).to_csv(index=False).encode()


def board_md(board: Board) -> str:
    """Return the board as GitHub Markdown: the report's `board.md`.

    The table over all lines comes first, then the worst lines if there are many, then one table per line, and the
    conditions of the measurements.
    """
    parts = [f"# {board.context.run}", "", "## All lines", ""]
    if board.over_all:
        parts += _verdict(board.over_all)
    parts += _markdown(OVERALL_COLUMNS, board, board.overall)
    summaries = worst_first(board)
    if len(summaries) > FEW_LINES:
        table = _markdown(SUMMARY_COLUMNS, board, summaries)
        parts += ["", "## Worst lines first", "", poor_lines(summaries), "", *table]
    for line in [summary.line for summary in summaries]:
        table = _markdown(LINE_COLUMNS, board, board.rows_of(line))
        parts += ["", f"## {line}", "", *_verdict(board.verdict_on(line)), *table]
        if payoff := board.payoff_on(line):
            parts += ["", payoff.sentence]
    return "\n".join([*parts, "", *(f"- {text}" for text in conditions(board)), ""])


def flags_parquet(flags: Sequence[Flag]) -> bytes:
    """Return the flags as Parquet, one row per flag: the report's `flags.parquet`."""
    columns = [each.name for each in fields(Flag)]
    rows = [asdict(flag) | {"models": list(flag.models), "kinds": list(flag.kinds)} for flag in flags]
    sink = io.BytesIO()
    # Typed, because a column without any value would get another type than in the next report.
    types = {"signal": "string", "signal_confidence": "float64", "signal_evidence": "string"}
    pd.DataFrame(rows, columns=columns).astype(types).to_parquet(sink, index=False)
    return sink.getvalue()


def _verdict(verdict: Verdict) -> list[str]:
    return [part for text in (verdict.sentence, *verdict.notes) for part in (text, "")]


def _markdown(columns: Sequence[Column[Row]], board: Board, rows: Sequence[Row]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    names = headers(columns)
    return [line(names), line(["---"] * len(names)), *(line(cells(columns, board, row)) for row in rows)]
