from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from raybench.analysis.board import Board, BoardContext, board_from_json, board_json, build_board
from raybench.analysis.flags import Flag, ScoredImage
from raybench.analysis.sentences import format_probability
from raybench.report.column import headers
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS
from raybench.report.gallery import Picture, overlay
from raybench.report.html import render
from raybench.report.tables import board_csv, board_md, flags_parquet
from raybench.runs.records import Failure, UnitResult
from tests.support.report_units import EVIL, unit

FLAGS = [
    Flag(EVIL, f"test/{EVIL}.png", "ng", ("padim",), 2, 1.25, "models disagree", "models disagree: 1 of 2 flag it")
]


@pytest.fixture(scope="module")
def board() -> Board:
    good, bad = unit("padim", 3.0, 0), unit("fake", 0.3, 1)
    failed = UnitResult("f", EVIL, "broken", 0, failure=Failure("score", "ModelError", EVIL, f"Traceback {EVIL}", 2))
    context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {"raybench": "0.1"}, 0.05, pending=3)
    return build_board([good[0], bad[0], failed], {"padim": good[1], "fake": bad[1]}, context)


def picture() -> Picture:
    heat = np.zeros((60, 90), np.float32)
    heat[20:30, 20:30] = 5
    mask = heat > 1
    image = np.full((60, 90, 3), 128, np.uint8)
    return Picture(EVIL, f"{EVIL}.png", "ng", {"padim": 2.0}, ("padim",), "padim", image, heat, mask, 0.0, 1.0)


def test_json_round_trip_without_nan(board: Board) -> None:
    data = board_json(board)
    assert board_from_json(data) == board
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_csv_has_a_row_per_line_and_model_failures_included(board: Board) -> None:
    table = pd.read_csv(io.BytesIO(board_csv(board)))
    assert list(table["model"]) == ["broken", "fake", "padim"]
    failed = table.iloc[0]
    assert (failed["failure_error_type"], failed["failure_phase"], failed["failure_attempt"]) == (
        "ModelError",
        "score",
        2,
    )
    assert pd.isna(failed["image_auroc"])
    padim = table.iloc[2]
    assert padim["image_auroc_low"] < padim["image_auroc"] <= padim["image_auroc_high"]
    assert padim["au_pro_reason"] == "no masks"
    assert padim["speed_p50_ms"] == 10.0


def test_markdown_tables_stay_tables(board: Board) -> None:
    rows = [line for line in board_md(board).splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) - 1 for line in rows]
    overall = [len(headers(OVERALL_COLUMNS))] * (2 + len(board.overall))
    assert widths == overall + [len(headers(LINE_COLUMNS))] * (2 + len(board.rows))
    assert "3 units are still to be done" in board_md(board)
    verdict = board.verdicts[0]
    grade, sure = verdict.grades["padim"], format_probability(verdict.standings["padim"].best)
    assert "| padim | – | 1.0 | – | imagenet |" in board_md(board)
    row = [row for row in rows if row.startswith("| padim |")][-1]
    assert f"| {grade} | {sure} |" in row


def test_flags_round_trip() -> None:
    table = pd.read_parquet(io.BytesIO(flags_parquet(FLAGS)))
    assert table.loc[0, "image_id"] == FLAGS[0].image_id
    assert table["models"][0].tolist() == ["padim"]
    told = replace(FLAGS[0], signal="layout", signal_confidence=0.5, signal_evidence="shifted")
    tables = [pd.read_parquet(io.BytesIO(flags_parquet(flags))) for flags in (FLAGS, [told], [])]
    assert tables[1].iloc[0][["signal", "signal_confidence", "signal_evidence"]].tolist() == ["layout", 0.5, "shifted"]
    assert tables[0].loc[0, ["signal", "signal_confidence", "signal_evidence"]].isna().all()
    names = ["signal", "signal_confidence", "signal_evidence"]
    signals = [[table.dtypes[name] for name in names] for table in tables]
    assert signals[0] == signals[1] == signals[2]
    assert list(tables[2].columns) == list(table.columns)


BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]


@pytest.fixture(scope="module")
def many(board_of: BoardOf) -> Board:
    """Lines of rising quality, the later ones easier."""
    return board_of(
        {f"line-{at:02}": {"good": 0.2 + at / 8, "bad": at / 10} for at in range(25)}
        | {EVIL: {"good": None, "bad": None}}
    )


def test_the_page_of_many_lines(many: Board) -> None:
    text = render(many, [], [])
    assert EVIL not in text
    assert text.count("<tr data-line=") == text.count("<section data-line=") == len(many.lines)
    table = text[text.index('id="lines"') :]
    assert table.index('href="#line-1"') < table.index('href="#line-2"')
    assert '<tr data-line="line-00" data-run="good"' in table
    sections = re.findall(r'<section data-line="([^"]*)"[^>]*id="line-(\d+)"', text)
    assert [int(place) for _, place in sections] == list(range(1, len(many.lines) + 1))
    assert [line for line, _ in sections[1:4]] == ["line-00", "line-01", "line-02"]
    assert text.count('<li><a href="#line-') == 0  # one sentence for each line would fill the screen
    assert "lines: no model has an image AUROC of 0.8 or more." in text


def test_markdown_lists_many_lines_in_short(many: Board) -> None:
    text = board_md(many)
    assert "## Worst lines first" in text
    assert text.index("| line-00 |") < text.index("| line-24 |") < text.index("## line-00")


class Page(HTMLParser):
    """scripts: those that a browser runs. data: those that it only holds."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.data: list[str] = []
        self.policy = ""
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self._open = self.data if ("type", "application/json") in attrs else self.scripts
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)
            self._open = None


SEEN = [
    ScoredImage(EVIL, f"{EVIL}{at}", label, {"padim": at - 2.0}) for at, label in enumerate(["ok", "ok", "ng", "ng"])
]


def test_the_page_is_self_contained_and_escaped(board: Board) -> None:
    text = render(board, FLAGS, [picture()], SEEN)
    page = Page()
    page.feed(text)
    assert EVIL not in text
    assert page.addresses
    assert all(address.startswith(("data:image/jpeg;base64,", "#line-")) for address in page.addresses)
    assert "default-src 'none'" in page.policy
    assert page.tags.count("img") == 2
    assert page.tags.count("details") == 1
    assert "run padim" in text


def test_only_the_page_s_own_scripts_may_run(board: Board) -> None:
    page = Page()
    page.feed(render(board, FLAGS, [picture()], SEEN))
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert page.policy.partition("script-src ")[2].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(digests) == 2


def test_a_flag_is_found_by_each_of_its_reasons(board: Board) -> None:
    both = replace(FLAGS[0], kinds=("models disagree", "bad image"))
    text = render(board, [both], [picture()], SEEN)
    assert text.count('data-reason="models disagree\nbad image"') == 1
    assert text.count("<option>bad image</option>") == text.count("<option>models disagree</option>") == 1


def test_a_flag_says_what_it_looks_like(board: Board) -> None:
    told = replace(FLAGS[0], signal="layout", signal_confidence=0.8765, signal_evidence="shifted by <b>40 px</b>")
    text = render(board, [told], [picture()], SEEN)
    assert "<td>layout (0.88): shifted by &lt;b&gt;40 px&lt;/b&gt;</td>" in text
    assert text.count('data-signal="layout"') == 1
    assert text.count("<option>layout</option>") == 1
    assert 'data-filter="signal"' not in render(board, FLAGS, [picture()], SEEN)


def test_charts_hold_what_the_board_holds(board: Board) -> None:
    page = Page()
    page.feed(render(board, FLAGS, [], SEEN))
    speed, size, histogram, roc, precision = (json.loads(data) for data in page.data)
    assert speed["data"][1]["text"] == ["padim", "fake"]
    assert size["data"][1]["x"] == [12.5, 12.5]
    assert sum(len(trace["x"]) for trace in histogram["data"]) == 4
    assert roc["data"][0]["y"][-1] == 1.0
    assert precision["data"][0]["y"][0] == 1.0


def test_the_page_of_an_empty_board() -> None:
    context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {}, 0.05)
    assert "night" in render(build_board([], {}, context), [], [])


def test_what_is_no_hotter_than_typical_stays_clear() -> None:
    image = np.full((8, 8, 3), 100, np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[0, 0] = 10
    found = overlay(image, heat, 0.0, 1.0)
    assert (found[4, 4] == 100).all()
    assert (found[0, 0] != 100).any()
    assert (overlay(image, heat, 5.0, 5.0)[0, 0] != 100).any()
