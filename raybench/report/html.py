"""The report as one self-contained page: no outside address, everything from the data escaped.

The page's two scripts (Plotly and `page.js`) are inlined and named by their hash in its content security policy, so
nothing that comes from the data can ever run. Without scripts all but the charts is there.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import jinja2
from plotly.offline import get_plotlyjs

from raybench.analysis.board import Board
from raybench.analysis.decision import CRITERIA, format_number
from raybench.analysis.flags import Flag, ScoredImage
from raybench.analysis.line_summary import poor_lines, worst_first
from raybench.analysis.rows import BoardRow
from raybench.metrics.numbers import Estimate
from raybench.report.charts import Chart, charts
from raybench.report.column import cells, headers, shown
from raybench.report.columns import FLAG_COLUMNS, HELP, LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS
from raybench.report.conditions import conditions
from raybench.report.gallery import Picture
from raybench.report.inspection import Section
from raybench.report.tables import FEW_LINES

FLAGS_SHOWN = 50
NOT_FLAGGED = "not flagged"
Of = TypeVar("Of", Flag, ScoredImage)


@dataclass(frozen=True)
class Bar:
    """An interval on a scale from 0 to 100 %: start, width and the value's place, in per cent."""

    start: float
    width: float
    value: float


def render(
    board: Board,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage] = (),
    sections: Mapping[str, Section] = MappingProxyType({}),
) -> str:
    """The page. pictures: in the order they are shown, grouped by line. seen: every image, for the charts. sections:
    of data quality, by line."""
    by_line = {line: list(group) for line, group in itertools.groupby(pictures, key=lambda picture: picture.line)}
    flags_of = _by_line(flags)
    seen_of = _by_line(seen)
    kinds = {(flag.line, flag.image_id): flag.kinds or (flag.kind,) for flag in flags}
    signals = {(flag.line, flag.image_id): flag.signal for flag in flags if flag.signal}
    summaries = worst_first(board)

    def reasons_of(picture: Picture) -> tuple[str, ...]:
        return kinds.get((picture.line, picture.image_id), (NOT_FLAGGED,))

    def signal_of(picture: Picture) -> str:
        return signals.get((picture.line, picture.image_id), "")

    def choices(line: str) -> dict[str, list[str]]:
        """What can be filtered by, and its values."""
        shown_flags = flags_of.get(line, [])[:FLAGS_SHOWN]
        of_line = by_line.get(line, [])
        found = {
            "label": {*(flag.label for flag in shown_flags), *(picture.label for picture in of_line)},
            "model": {model for models in _models(shown_flags, of_line) for model in models},
            "reason": {
                *(kind for flag in shown_flags for kind in kinds[flag.line, flag.image_id]),
                *(reason for picture in of_line for reason in reasons_of(picture)),
            },
            "defect": {picture.defect_type for picture in of_line if picture.defect_type},
            "signal": {
                *(flag.signal for flag in shown_flags if flag.signal),
                *(signal for picture in of_line if (signal := signal_of(picture))),
            },
        }
        return {name: sorted(values) for name, values in found.items()}

    def charts_of(line: str) -> list[Chart]:
        return charts(board.rows_of(line), seen_of.get(line, []), board.verdict_on(line).run)

    scripts = (get_plotlyjs(), _part("page.js"))
    return _template().render(
        board=board,
        summaries=summaries,
        is_long=len(summaries) > FEW_LINES,
        poor=poor_lines(summaries),
        summary_headers=headers(SUMMARY_COLUMNS),
        summary_cells=functools.partial(cells, SUMMARY_COLUMNS, board),
        line_headers=headers(LINE_COLUMNS),
        auroc_column=headers(LINE_COLUMNS).index("image AUROC"),
        wordy=[column.header for column in shown(LINE_COLUMNS) if column.is_sentence],
        overall_headers=headers(OVERALL_COLUMNS),
        flag_headers=headers(FLAG_COLUMNS),
        flag_cells=functools.partial(cells, FLAG_COLUMNS, board),
        explained=HELP,
        criteria=CRITERIA,
        line_cells=functools.partial(cells, LINE_COLUMNS, board),
        overall=[cells(OVERALL_COLUMNS, board, row) for row in board.overall],
        bar=_bar,
        defect_kinds=_defect_kinds,
        found_of=_found_of,
        charts_of=charts_of,
        choices=choices,
        reasons_of=reasons_of,
        signal_of=signal_of,
        defects={(picture.line, picture.image_id): picture.defect_type for picture in pictures},
        pictures=by_line,
        flags={line: flags_of.get(line, []) for line in board.lines},
        flags_shown=FLAGS_SHOWN,
        sections=sections,
        conditions=conditions(board),
        style=_part("page.css"),
        scripts=scripts,
        script_sources=" ".join(_source(script) for script in scripts),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(_part("page.html.j2"))


def _by_line(found: Sequence[Of]) -> dict[str, list[Of]]:
    by_line: dict[str, list[Of]] = {}
    for one in found:
        by_line.setdefault(one.line, []).append(one)
    return by_line


def _part(name: str) -> str:
    return importlib.resources.files("raybench.report").joinpath(name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    """What a content security policy calls a script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _models(flags: Sequence[Flag], pictures: Sequence[Picture]) -> list[tuple[str, ...]]:
    return [*(flag.models for flag in flags), *(picture.flagged_by for picture in pictures)]


def _bar(row: BoardRow) -> Bar | None:
    number = row.quality.image_auroc if row.quality else None
    if number is None or number.value is None or number.low is None or number.high is None:
        return None
    return Bar(100 * number.low, max(100 * (number.high - number.low), 0.5), 100 * number.value)


def _kinds(row: BoardRow) -> dict[str, Estimate]:
    return {**row.regions.by_type, **row.regions.by_size} if row.regions else {}


def _defect_kinds(rows: Sequence[BoardRow]) -> list[tuple[str, int]]:
    """Types and sizes of the line's masked defects, and how many there are."""
    return list({kind: number.n for row in rows for kind, number in _kinds(row).items()}.items())


def _found_of(row: BoardRow, kind: str) -> str:
    return format_number(_kinds(row).get(kind, Estimate(None)))
