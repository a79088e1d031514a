"""The report as one self-contained page: no script, no outside address, everything from the data escaped."""

from __future__ import annotations

import importlib.resources
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jinja2

from raybench.findings.board import Board
from raybench.findings.flags import Flag
from raybench.findings.rows import Row
from raybench.reports.gallery import Picture
from raybench.reports.tables import LINE_HEADERS, OVERALL_HEADERS, conditions, line_cells, overall_cells
from raybench.results import Number

FLAGS_SHOWN = 50
_PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_EDGE = 520, 220, 40


@dataclass(frozen=True)
class Bar:
    """An interval on a scale from 0 to 100 %: start, width and the value's place, in per cent."""

    start: float
    width: float
    value: float


@dataclass(frozen=True)
class Dot:
    """A model in the plot of quality against speed, in pixels of the plot."""

    model: str
    x: float
    y: float
    low: float
    high: float
    named: bool


@dataclass(frozen=True)
class Plot:
    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def render(board: Board, flags: Sequence[Flag], pictures: Sequence[Picture]) -> str:
    """The page. pictures: in the order they are shown, grouped by line."""
    by_line = {line: list(group) for line, group in itertools.groupby(pictures, key=lambda picture: picture.line)}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = importlib.resources.files("raybench.reports").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        board=board,
        line_headers=LINE_HEADERS,
        overall_headers=OVERALL_HEADERS,
        line_cells=line_cells,
        overall=overall_cells(board),
        bar=_bar,
        plot=lambda line: _plot(board.rows_of(line), board.verdict_on(line).run),
        pictures=by_line,
        flags={line: [flag for flag in flags if flag.line == line] for line in board.lines},
        flags_shown=FLAGS_SHOWN,
        conditions=conditions(board),
    )


def _bar(row: Row) -> Bar | None:
    number = row.quality.image_auroc if row.quality else None
    if number is None or number.value is None or number.low is None or number.high is None:
        return None
    return Bar(100 * number.low, max(100 * (number.high - number.low), 0.5), 100 * number.value)


def _plot(rows: Sequence[Row], named: str | None) -> Plot | None:
    """Image AUROC against ms/image on a logarithmic scale; None with fewer than two models to show."""
    shown = [
        (row.model, row.quality.image_auroc, row.speed.p50_ms)
        for row in rows
        if row.quality and row.speed and row.quality.image_auroc.value is not None
    ]
    if len(shown) < 2:
        return None
    times = [ms for _, _, ms in shown]
    lows = [number.low if number.low is not None else number.value or 0.0 for _, number, _ in shown]
    x_range = (math.log10(min(times)) - 0.15, math.log10(max(times)) + 0.35)
    y_range = (math.floor(min(lows) * 20) / 20, 1.0)

    def x(ms: float) -> float:
        share = (math.log10(ms) - x_range[0]) / (x_range[1] - x_range[0])
        return _PLOT_EDGE + share * (_PLOT_WIDTH - _PLOT_EDGE - 8)

    def y(auroc: float) -> float:
        share = (auroc - y_range[0]) / max(y_range[1] - y_range[0], 0.05)
        return (_PLOT_HEIGHT - 28) - share * (_PLOT_HEIGHT - 40)

    dots = tuple(_dot(model, number, x(ms), y, model == named) for model, number, ms in shown)
    x_ticks = tuple((x(ms), f"{ms:g} ms") for ms in _decades(*(10**end for end in x_range)))
    steps = [y_range[0] + (1 - y_range[0]) * part / 4 for part in range(5)]
    return Plot(dots, x_ticks, tuple((y(step), f"{step:.2f}") for step in steps))


def _dot(model: str, number: Number, x: float, y: Callable[[float], float], named: bool) -> Dot:
    value = number.value or 0.0
    low, high = (value if end is None else end for end in (number.low, number.high))
    return Dot(model, x, y(value), y(low), y(high), named)


def _decades(low: float, high: float) -> list[float]:
    marks = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
    return [mark for mark in marks if low <= mark <= high]
