"""The report as one page: no outside address, and everything from the data is escaped.

The page's one script is inlined and named by its hash in the content security policy, so nothing that comes from the
data can ever run. Without scripts the page has all views below each other.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jinja2

from raybench.analysis.board import Board
from raybench.analysis.findings import HeldOut
from raybench.analysis.flags import Flag, ScoredImage
from raybench.analysis.sentences import format_number, format_probability
from raybench.analysis.slices import FEW
from raybench.analysis.verdict import Verdict
from raybench.report.charts import excess_ticks, place_of_threshold
from raybench.report.column import headers
from raybench.report.columns import HELP, LINE_COLUMNS, OVERALL_COLUMNS
from raybench.report.gallery import Picture, colour_tables
from raybench.report.inspection import Section
from raybench.report.models_table import STYLES
from raybench.report.overview import fragment, matrix_columns
from raybench.report.page import page_model
from raybench.report.studies import Studies

SCRIPTS = (
    "dom.js", "stats.js", "tables.js", "filters.js", "route.js", "image.js", "thresholds.js", "disagreement.js",
    "decisions.js", "queue.js", "start.js",
)  # fmt: skip
"""Joined into the page's script, in this order."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data: blob:; script-src {source}; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'"
)
NO_STUDIES = Studies()


def render(
    board: Board,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage] = (),
    sections: Mapping[str, Section] = MappingProxyType({}),
    held_out: Mapping[str, Mapping[str, HeldOut]] = MappingProxyType({}),
    studies: Studies = NO_STUDIES,
) -> str:
    """Return the page as HTML.

    Args:
        board: The comparison.
        flags: Images to look at, by rank within their line.
        pictures: In the order they are shown, grouped by line.
        seen: All scored images, for the charts.
        sections: Quality of the data, by line.
        held_out: Held-back OK images by line and model, so that thresholds can be moved.
        studies: Slices, learning curves and robustness of the lines.
    """
    script = "\n".join(part(name) for name in SCRIPTS)
    return template("page.html.j2").render(
        page=page_model(board, flags, pictures, seen, sections, held_out, studies),
        overall_headers=headers(OVERALL_COLUMNS),
        line_headers=headers(LINE_COLUMNS),
        excess_ticks=excess_ticks(),
        few=FEW,
        threshold_at=place_of_threshold(),
        colours=colour_tables(),
        style=part("base.css") + part("page.css"),
        script=script,
        policy=POLICY.format(source=_source(script)),
    )


def template(name: str) -> jinja2.Template:
    """Return a template of `assets`, with what all of them use."""
    return _environment().get_template(name)


@functools.cache
def part(name: str) -> str:
    """Return a file of `assets`."""
    return importlib.resources.files("raybench.report").joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the templates' environment. It keeps what is compiled, which would take half the time of a small page."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(part),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "link": fragment,
        "explained": HELP,
        "probability": format_probability,
        "matrix_columns": matrix_columns,
        "words_of_label": {"ng": "NG", "ok": "OK", "unknown": "not labelled"},
    }
    environment.filters |= {
        "number": format_number,
        "fixed": lambda value: _rounded(value, ".3f").replace("-", "−"),
        "brief": lambda value: "" if value is None else f"{value:.6g}",
        "excess": lambda value: format(value, "+.2f").replace("-", "−"),
        "signed": lambda value: _rounded(value, "+.3f").replace("-", "−"),
    }
    environment.tests["graded"] = _is_graded
    return environment


def _rounded(value: float, form: str) -> str:
    """Format a number, without the sign of one that rounds to 0."""
    text = format(value, form)
    return text.lstrip("+-") if float(text) == 0 else text


def _is_graded(model: str, verdict: Verdict, style: str) -> bool:
    return STYLES.get(verdict.grades.get(model, "")) == style


def _source(script: str) -> str:
    """The name of a script in a content security policy: its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
