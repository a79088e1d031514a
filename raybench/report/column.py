"""One column of a table that shows a board: how its values are read, written, and where they appear."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from raybench.analysis.board import Board

Row = TypeVar("Row")
DASH = "–"


class Output(enum.Flag):
    """Where a column appears."""

    CSV = enum.auto()
    """`board.csv` and `board_frame`."""
    REPORT = enum.auto()
    """The page and Markdown."""
    TERMINAL = enum.auto()


READ = Output.REPORT | Output.TERMINAL
ALL = Output.CSV | READ


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column of a table whose rows are `Row`."""

    name: str
    """Name in the CSV. Unique in its tuple."""
    get: Callable[[Board, Row], Any]
    """The value of a row. None: unknown."""
    header: str = ""
    """Header in the outputs that people read."""
    format: Callable[[Any], str] = str
    """The value as text. An unknown or empty value is a dash without it."""
    output: Output = Output.CSV
    """The outputs that show the column."""
    position: int = 0
    """Sort key from left to right in the outputs that people read. The CSV keeps the order of the tuple."""
    attributes: tuple[str, ...] = ()
    """Attributes of the value with a CSV column each: the first is called `name`, the others `name_<attribute>`.
    Empty: the CSV holds the value itself."""
    brief: Callable[[Any], str] | None = None
    """Shorter text for the terminal. None: as `format`."""
    help: str = ""
    """What the header means. One entry explains all columns of the same header."""
    is_sentence: bool = False
    """Whether cells hold sentences, which the page wraps, where other columns hold numbers or words."""

    def text(self, board: Board, row: Row, output: Output = Output.REPORT) -> str:
        """Return the cell of `row` as `output` shows it."""
        value = self.get(board, row)
        if value is None or value == "":
            return DASH
        return self.brief(value) if output is Output.TERMINAL and self.brief else self.format(value)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the column's cells in the CSV."""
        return (self.name, *(f"{self.name}_{attribute}" for attribute in self.attributes[1:]))

    def values(self, board: Board, row: Row) -> dict[str, Any]:
        """Return the CSV cells of `row` by their names."""
        value = self.get(board, row)
        if not self.attributes:
            return {self.name: value}
        parts = (None if value is None else getattr(value, attribute) for attribute in self.attributes)
        return dict(zip(self.names, parts, strict=True))


def shown(columns: Sequence[Column[Row]], output: Output = Output.REPORT) -> list[Column[Row]]:
    """Return the columns that `output` shows, from left to right."""
    return sorted((column for column in columns if output in column.output), key=lambda column: column.position)


def headers(columns: Sequence[Column[Row]], output: Output = Output.REPORT) -> list[str]:
    """Return the headers of the columns that `output` shows."""
    return [column.header for column in shown(columns, output)]


def cells(columns: Sequence[Column[Row]], board: Board, row: Row, output: Output = Output.REPORT) -> list[str]:
    """Return the texts of one row, in the order of `headers`."""
    return [column.text(board, row, output) for column in shown(columns, output)]
