from __future__ import annotations

import base64
import hashlib
import html
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
from raybench.analysis.learning_curve import CurvePoint
from raybench.analysis.robustness import AS_TAKEN, RobustnessPoint
from raybench.analysis.sentences import format_probability
from raybench.analysis.slices import Slice
from raybench.analysis.verdict import DecisionSettings
from raybench.config.experiment import Costs
from raybench.metrics.numbers import Estimate
from raybench.metrics.small_maps import heat_codes
from raybench.report.column import headers
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS
from raybench.report.gallery import HeatMap, Picture, outline_path, overlay
from raybench.report.html import SCRIPTS, part, render
from raybench.report.studies import Studies
from raybench.report.tables import board_csv, board_md, flags_parquet
from raybench.runs.records import FailedUnit, Failure
from tests.support.report_units import EVIL, unit
from tests.support.results import done

FLAGS = [
    Flag(EVIL, f"test/{EVIL}.png", "ng", ("padim",), 2, 1.25, "models disagree", "models disagree: 1 of 2 flag it")
]


@pytest.fixture(scope="module")
def board() -> Board:
    good, bad = unit("padim", 3.0, 0), unit("fake", 0.3, 1)
    failed = FailedUnit("f", EVIL, "broken", 0, Failure("score", "ModelError", EVIL, f"Traceback {EVIL}", 2))
    context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {"raybench": "0.1"}, 0.05, pending=3)
    return build_board([good[0], bad[0], failed], {"padim": good[1], "fake": bad[1]}, context)


def picture() -> Picture:
    heat = np.zeros((64, 96), np.float32)
    heat[20:30, 20:30] = 5
    image = np.full((60, 90, 3), 128, np.uint8)
    maps = (HeatMap("padim", heat_codes(heat, 0.0, 1.0), 127),)
    return Picture(EVIL, f"{EVIL}.png", "ng", {"padim": 2.0}, image, outline_path(np.eye(60, 90) > 0), maps)


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


def test_markdown_has_the_notes_of_each_verdict(board: Board) -> None:
    noted = tuple(replace(verdict, notes=("It is dark.", "Times are old.")) for verdict in board.verdicts)
    text = board_md(replace(board, verdicts=noted))
    for verdict in noted:
        assert f"{verdict.sentence}\n\nIt is dark.\n\nTimes are old.\n\n|" in text


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
    assert text.count("<tr data-line=") == text.count('data-view="line"') == len(many.lines)
    assert '<tr data-line="line-00" data-run="good"' in text
    lines = re.findall(r'data-view="line" data-line="([^"]*)"', text)
    assert lines[1:4] == ["line-00", "line-01", "line-02"]
    assert re.findall(r'id="line-(\d+)"', text) == [str(place) for place in range(1, len(lines) + 1)]
    assert "lines: no model has an image AUROC of 0.8 or more." in text


def test_markdown_lists_many_lines_in_short(many: Board) -> None:
    text = board_md(many)
    assert "## Worst lines first" in text
    assert text.index("| line-00 |") < text.index("| line-24 |") < text.index("## line-00")


class Page(HTMLParser):
    """scripts: those that a browser runs."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self._open = self.scripts
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
    beside = {"board.csv", "board.json", "board.md", "flags.parquet", "#main"}
    assert all(address.startswith(("data:image/", "#v=")) or address in beside for address in page.addresses)
    assert "default-src 'none'" in page.policy
    assert page.tags.count("img") == 1
    assert text.count("--maps:url(data:image/webp;base64,") == 1
    assert text.count('<details class="pad failure">') == 1
    assert "run padim" in text


def test_only_the_page_s_own_scripts_may_run(board: Board) -> None:
    page = Page()
    page.feed(render(board, FLAGS, [picture()], SEEN))
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert f"script-src 'sha256-{digests[0]}';" in page.policy
    assert "unsafe-inline" not in page.policy.replace("style-src 'unsafe-inline'", "")
    assert len(digests) == 1


def test_no_script_writes_markup() -> None:
    source = "\n".join(part(name) for name in SCRIPTS)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert word not in source


def test_a_flag_is_found_by_each_of_its_reasons(board: Board) -> None:
    both = replace(FLAGS[0], kinds=("models disagree", "bad image"))
    text = render(board, [both], [picture()], SEEN)
    assert text.count('data-kind="models disagree\nbad image"') == 1
    for kind in ("bad image", "models disagree"):
        assert text.count(f'<option value="{kind}">') == 1


def test_a_flag_says_what_it_looks_like(board: Board) -> None:
    told = replace(FLAGS[0], signal="layout", signal_confidence=0.8765, signal_evidence="shifted by <b>40 px</b>")
    text = render(board, [told], [picture()], SEEN)
    assert ">looks like layout (0.88): shifted by &lt;b&gt;40 px&lt;/b&gt;</p>" in text
    assert text.count('data-signal="layout"') == 1
    assert text.count('<option value="layout">layout</option>') == 1
    assert 'data-filter="signal"' not in render(board, FLAGS, [picture()], SEEN)


def test_the_page_says_what_the_board_says(board: Board, many: Board) -> None:
    verdict, text = many.verdict_on("line-24"), render(many, [], [])
    section = text[text.index('data-line="line-24" data-title') :]
    assert len(verdict.standings) > 1
    assert f"<b>{html.escape(format_probability(verdict.sure or 0.0))}</b><span>sure that no other" in section
    assert f"<b>{verdict.loss:.3f}</b><span>expected loss" in section
    named = done(board.rows_of(EVIL)[0])
    page = render(board, FLAGS, [], SEEN)
    assert f"finds {round((named.quality.recall.value or 0.0) * 30)} of 30 NG test images" in page
    assert all(grade in page for grade in board.verdicts[0].grades.values())


def test_costs_are_told_in_parts(board: Board) -> None:
    settings = DecisionSettings(costs=Costs(missed_defect=200, false_alarm=2, defect_rate=0.02))
    text = render(replace(board, context=replace(board.context, decision=settings)), [], [])
    quality = done(board.rows_of(EVIL)[0]).quality
    recall, alarms = quality.recall.value or 0.0, quality.false_alarm_rate.value or 0.0
    assert f"Of 1,000 parts, 20 of them NG: {20 * (1 - recall):.0f} (" in text
    assert f"missed, {980 * alarms:.0f} (" in text


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


def test_slices_are_shown_with_what_differs(board: Board) -> None:
    share, few = Estimate(0.5, 0.2, 0.8, 10), Estimate(None, reason="no NG images in the test split")
    slices = {
        board.lines[0]: [
            Slice(board.lines[0], "padim", "camera", EVIL, 10, 4, share, share, 0.01),
            Slice(board.lines[0], "padim", "camera", "", 12, 0, few, share, 0.4),
        ]
    }
    text = render(board, FLAGS, [picture()], SEEN, studies=Studies(slices))
    rows = re.findall(r"<tr(?: class=\"(\w+)\")?><td>camera</td><td>(.*?)</td>", text)
    assert rows == [
        ("named", html.escape(EVIL, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")),
        ("", "(empty)"),
    ]
    assert "0.500 (0.200–0.800)" in text
    assert "By camera, lot or light" not in render(board, FLAGS, [picture()], SEEN)


def test_a_learning_curve_has_a_dot_per_model_and_number(board: Board) -> None:
    near, far = Estimate(0.9, 0.8, 0.95, 60), Estimate(0.7, 0.6, 0.8, 60)
    points = [
        CurvePoint("padim", 10, far, Estimate(0.2, 0.1, 0.3, 60), has_threshold=False),
        CurvePoint("padim", 50, near, Estimate(0.0, 0.0, 0.0, 60), has_threshold=True),
    ]
    text = render(board, FLAGS, [picture()], SEEN, studies=Studies(curves={board.lines[0]: points}))
    panel = text.partition('data-part="curve"')[2].partition('<div class="card')[0]
    assert re.findall(r">(10|all 50)<", panel) == ["10", "all 50"]
    assert "padim with 10 OK images: image AUROC 0.700, 95 % interval 0.600 to 0.800" in panel
    assert "too few images for a threshold within" in panel
    assert "padim: it is open whether fewer than all 50 OK images are enough" in panel
    assert 'data-part="curve"' not in render(board, FLAGS, [picture()], SEEN)


def test_robustness_shows_the_named_model_first_and_failures_as_rows(board: Board) -> None:
    share, lower = Estimate(0.5, 0.2, 0.8, 10), Estimate(0.25, 0.1, 0.4, 20)
    nothing = Estimate(None)
    failure = Failure("robustness", "BadScores", EVIL, "Traceback", 1)
    points = [
        RobustnessPoint("fake", AS_TAKEN, share, Estimate(0.0, 0.0, 0.0, 20), share, share, 0.05),
        RobustnessPoint("fake", "blur 1 %", nothing, nothing, nothing, nothing, 0.05, failure),
        RobustnessPoint("padim", AS_TAKEN, share, Estimate(0.0, 0.0, 0.0, 20), share, share, 0.05),
        RobustnessPoint("padim", "darker 20 %", share, lower, share, share, 0.05),
    ]
    text = render(board, FLAGS, [picture()], SEEN, studies=Studies(robustness={board.lines[0]: points}))
    panel = text.partition('data-part="robustness"')[2].partition('<div class="card')[0]
    assert "How robust is padim?" in panel
    assert panel.index("darker 20 %</th>") < panel.index("blur 1 %</th>")
    assert "+0.250" in panel
    assert f"failed: BadScores: {html.escape(EVIL).replace('&quot;', '&#34;')}" in panel
    assert "padim: image AUROC falls by more than 0.02 (darker 20 %)" in panel
