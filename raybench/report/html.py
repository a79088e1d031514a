"""The report as one self-contained page: no outside address, and everything from the data is escaped.

The page's two scripts (Plotly and `page.js`) are inlined and named by their hash in its content security policy, so
nothing that comes from the data can ever run. Without scripts the page still has everything but the charts.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jinja2
from plotly.offline import get_plotlyjs

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, ScoredImage
from raybench.report.column import headers
from raybench.report.columns import FLAG_COLUMNS, HELP, LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS
from raybench.report.gallery import Picture
from raybench.report.inspection import Section
from raybench.report.page import page_model


def render(
    board: Board,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage] = (),
    sections: Mapping[str, Section] = MappingProxyType({}),
) -> str:
    """Return the page as HTML.

    Args:
        board: The comparison.
        flags: Images to look at, by rank within their line.
        pictures: In the order they are shown, grouped by line.
        seen: All scored images, for the charts.
        sections: Quality of the data, by line.
    """
    scripts = (get_plotlyjs(), _part("page.js"))
    return _template().render(
        page=page_model(board, flags, pictures, seen, sections),
        overall_headers=headers(OVERALL_COLUMNS),
        summary_headers=headers(SUMMARY_COLUMNS),
        line_headers=headers(LINE_COLUMNS),
        flag_headers=headers(FLAG_COLUMNS),
        explained=HELP,
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


def _part(name: str) -> str:
    return importlib.resources.files("raybench.report").joinpath(name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    """The name of a script in a content security policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
