from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.metrics.numbers import Quality, Speed
from raybench.report.column import Output, shown
from raybench.report.columns import (
    ESTIMATE,
    HELP,
    LINE_COLUMNS,
    OVERALL_COLUMNS,
    SUMMARY_COLUMNS,
    board_frame,
)
from raybench.report.console import console_board
from raybench.report.tables import board_csv, board_md
from raybench.runs.records import ImageCounts, ModelSize
from tests.support.made_board import made_board

BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]
STORED = Path(__file__).parent / "made_board"
TABLES = [LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS]


def markdown(board: Board) -> str:
    return "\n".join(line for line in board_md(board).splitlines() if line.startswith("|")) + "\n"


def terminal(board: Board) -> str:
    console = Console(width=160, file=io.StringIO(), force_terminal=False)
    console.print(console_board(board))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    tables = text.partition("\naspect:")[0]
    return "\n".join(line.rstrip() for line in tables.splitlines()).rstrip() + "\n"


@pytest.mark.parametrize(
    ("name", "write"), [("csv", lambda board: board_csv(board).decode()), ("md", markdown), ("txt", terminal)]
)
def test_tables_stay_as_they_were(name: str, write: Callable[[Board], str]) -> None:
    """People and scripts read these tables. After a change on purpose, store them again."""
    assert write(made_board()) == (STORED / f"board.{name}").read_text(encoding="utf-8")


def test_the_frame_is_what_the_csv_holds() -> None:
    board = made_board()
    frame = board_frame(board)
    assert frame.to_csv(index=False).encode() == board_csv(board)
    assert frame[["line", "model"]].to_numpy().tolist() == [[row.line, row.model] for row in board.rows]
    assert frame.iloc[0][["recall", "recall_low", "recall_high", "recall_n"]].tolist() == [0.75, 0.625, 0.875, 16]
    assert frame["au_pro_reason"].fillna("").tolist() == ["", "no masks", "", ""]


def test_every_measured_number_is_in_the_frame() -> None:
    names = set(board_frame(made_board()).columns)
    kinds = {"speed_": Speed, "size_": ModelSize, "images_test_": ImageCounts}
    assert "speed_is_disturbed" in names
    measured = {f"{prefix}{field.name}" for prefix, kind in kinds.items() for field in fields(kind)}
    measured = measured - {"images_test_masks"} | {"images_masks", "images_train_ok", "images_held_out_ok"}
    quality = {field.name for field in fields(Quality)}
    assert measured | quality | {f"{name}_{part}" for name in quality for part in ESTIMATE[1:]} <= names


def test_the_columns_do_not_depend_on_what_failed(board_of: BoardOf) -> None:
    empty = build_board([], {}, BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {}, 0.05))
    boards = [empty, board_of({"a": {"m": None}}), board_of({"a": {"m": None, "n": 2.0}}), made_board()]
    assert len({tuple(board_frame(board).columns) for board in boards}) == 1


@pytest.mark.parametrize("columns", TABLES)
def test_columns_have_names_of_their_own_and_places(columns: tuple) -> None:  # type: ignore[type-arg]
    assert len({column.name for column in columns}) == len(columns)
    for output in (Output.REPORT, Output.TERMINAL):
        here = shown(columns, output)
        assert all(column.header for column in here)
        assert len({column.header for column in here}) == len(here)
        if columns is LINE_COLUMNS:
            assert len({column.position for column in here}) == len(here)


def test_one_header_has_one_explanation() -> None:
    texts = [(column.header, column.help) for columns in TABLES for column in columns if column.help]  # type: ignore[attr-defined]
    assert dict(texts) == HELP
    assert len(texts) == len(HELP)
