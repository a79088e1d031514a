"""The report in a real browser, opened from a file."""

from __future__ import annotations

import csv
import functools
import http.server
import itertools
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from raybench.analysis.board import Board
from raybench.analysis.findings import HeldOut
from raybench.analysis.flags import Flag, Kind, ScoredImage
from raybench.analysis.line_summary import worst_first
from raybench.analysis.predictions import PredictionSummary
from raybench.analysis.sentences import format_number
from raybench.cli.demo import Sizes, write_strips
from raybench.config.experiment import ThresholdChoice, parse_experiment
from raybench.data.line import Line
from raybench.data.pack import PackOptions, pack
from raybench.metrics.image import share_of
from raybench.metrics.intervals import group_numbers
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.threshold import conformal_threshold, false_alarm_interval
from raybench.report import predictions
from raybench.report.comparison import render_comparison
from raybench.report.contact_sheet import write_contact_sheet
from raybench.report.gallery import HeatMap, Picture, image_uri
from raybench.report.html import render
from raybench.report.inspection import Finding, Section
from raybench.report.models_table import STYLES
from raybench.report.overview import fragment
from raybench.report.predictions import PredictionCard
from raybench.runs.records import Failure
from raybench.runs.scores import Predicted
from raybench.store import open_store
from tests.analysis import test_run_comparison as made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]
HOSTILE = "<img src=x onerror=alert(1)> ü\"'#&%/\n" + "long" * 30
WIDTHS = (1400, 1024, 768, 390, 320)


@pytest.fixture(scope="module")
def board(board_of: BoardOf) -> Board:
    """Lines of rising quality, one of them poor; one model that failed once and was not run once; a hostile line."""
    gaps: dict[str, dict[str, float | None]] = {
        f"line-{at}": {"padim": 0.6 * at, "dfm": 2.0 - 0.4 * at, HOSTILE: 1.4} for at in range(1, 5)
    }
    gaps["line-2"]["dfm"] = None
    del gaps["line-3"]["dfm"]
    gaps["poor"] = {"padim": 0.2, "dfm": 0.4, HOSTILE: 0.1}
    gaps["broken"] = {"padim": None, "dfm": None, HOSTILE: None}
    gaps[HOSTILE] = {"padim": 3.0, "dfm": 2.9, HOSTILE: 2.8}
    return board_of(gaps)


def scored() -> tuple[list[ScoredImage], dict[str, HeldOut]]:
    """80 images of line-2 in 30 groups, some scores equal, and what was held back: 40 images, of padim in 15 groups."""
    rng = np.random.default_rng(5)
    excess = {name: rng.normal(-0.4, 1, 80).round(2) for name in ("padim", HOSTILE)}
    seen = [
        ScoredImage("line-2", f"{at}.png", ("ok", "ng", "ok", "unknown")[at % 4],
                    {name: float(values[at]) for name, values in excess.items()}, group=f"part {at % 30}")
        for at in range(80)
    ]  # fmt: skip
    held = tuple(rng.normal(-1, 0.6, 40).round(2).tolist())
    threshold = Threshold(2.0, 40, 0.05, 0.0625, 1.0)
    return seen, {
        "padim": HeldOut(0, threshold, held, tuple(at % 15 for at in range(40))),
        HOSTILE: HeldOut(0, threshold, held[::-1], tuple(range(40))),
    }


@pytest.fixture(scope="module")
def report(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen = [
        ScoredImage(HOSTILE, HOSTILE + str(at), ("ok", "ng")[at % 2], {"padim": at - 2.0, HOSTILE: 2.0 - at})
        for at in range(6)
    ]
    pictures = [
        Picture(
            HOSTILE, image.image_id, image.label, image.excess, np.full((60, 90, 3), 200, np.uint8),
            "M400 0L600 0L600 1000Z" if at == 5 else "",
            (HeatMap("padim", corner(0), 127), HeatMap(HOSTILE, corner(1), 250)),
            ("", "scratch", "<b>bent</b>")[at % 3],
        )
        for at, image in enumerate(seen)
    ]  # fmt: skip
    pictures.append(Picture("line-1", HOSTILE, "ok", {}, np.zeros((60, 90, 3), np.uint8)))
    pictures.append(Picture("line-1", "tall", "ok", {}, np.zeros((320, 8, 3), np.uint8)))
    kinds: tuple[Kind, ...] = ("models disagree", "bad image", "bad image")
    flags = [
        Flag(
            HOSTILE, image.image_id, image.label, ("padim",), 2, 1.0, kind, HOSTILE, (kind,), signal="layout",
            signal_confidence=0.9, signal_evidence=HOSTILE,
        )
        for kind, image in zip(kinds, seen, strict=False)
    ]  # fmt: skip
    flags.append(replace(flags[1], line="line-1", signal=None))
    pictures.append(replace(pictures[-1], image_id=flags[-1].image_id, sha256="5" * 64, is_thumbnail=True))
    found = Section("line-1", True, 9, HOSTILE, (Finding("blur", 1, "11 %", HOSTILE),))
    path = tmp_path_factory.mktemp("report") / "index.html"
    more, held_out = scored()
    page = render(board, flags, pictures, seen + more, {"line-1": found}, {"line-2": held_out})
    path.write_text(page, encoding="utf-8")
    return path


def corner(at: int) -> npt.NDArray[np.uint8]:
    """A heat map that is hot in a corner of its own: upper left, or lower right."""
    codes = np.zeros((64, 96), np.uint8)
    rows, columns = (slice(0, 20), slice(0, 30)) if at == 0 else (slice(44, 64), slice(66, 96))
    codes[rows, columns] = 240
    return codes


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: make browser")
    from playwright.sync_api import sync_playwright  # takes a second

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The open page; afterwards: nothing was said on the console, no dialog, and nothing was asked for."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    said: list[str] = []
    asked: set[str] = set()
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append(dialog.message))
    opened.on("request", lambda request: asked.add(request.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    assert said == []
    addresses = {url.partition("#")[0].removesuffix("?again") for url in asked}
    assert {url for url in addresses if not url.startswith(("data:", "blob:"))} == {report.as_uri()}


def view(page: Page, address: str) -> str:
    """Go to a view and return its heading."""
    page.evaluate("address => { location.hash = address; }", address)
    return heading(page)


def settle(page: Page) -> None:
    """Wait until the page has seen its new address, which a browser tells it a little later."""
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
    )


def heading(page: Page) -> str:
    settle(page)
    return page.locator(".view:visible h1").inner_text()


def test_the_matrix_is_the_board(page: Page, board: Board) -> None:
    models = [row.model for row in board.overall]
    cells = page.locator(".matrix tbody tr").evaluate_all(
        "rows => rows.map(row => [row.dataset.line, [...row.querySelectorAll('.c')].map("
        "cell => [cell.className, cell.textContent, cell.title])])"
    )
    assert [line for line, _ in cells] == [summary.line for summary in worst_first(board)]
    for line, found in cells:
        rows, verdict = {row.model: row for row in board.rows_of(line)}, board.verdict_on(line)
        for model, (style, text, title) in zip(models, found, strict=True):
            row = rows.get(model)
            grade = verdict.grades.get(model, "failed" if row and row.failures else "")
            named = " named" if model == verdict.run else ""
            assert style == f"c {STYLES.get(grade, 'none')}{named}"
            assert grade in title
            if row is None or row.finished is None:
                assert text == ("" if row is None else "×")
            else:
                number = row.finished.quality.image_auroc
                assert text == ("1.0" if (number.value or 0) >= 0.995 else f"{number.value:.2f}"[1:])
                assert format_number(number) in title
    styles = {style for _, found in cells for style, _, _ in found}
    assert {"c failed", "c none", "c poor named", "c poor"} <= styles


def test_a_cell_leads_to_its_line_and_model(page: Page) -> None:
    row = page.locator(".matrix tr[data-line='line-3']")
    row.locator(".c a").first.click()
    assert heading(page) == "line-3"
    marked = page.locator(".view:visible tr.marked")
    assert marked.get_attribute("data-model") in ("padim", "dfm", HOSTILE)
    page.keyboard.press("Escape")
    assert heading(page).startswith("Run")
    page.go_back()
    assert heading(page) == "line-3"
    assert page.title().startswith("line-3 · night")


OVERLAPS = """() => [...document.querySelectorAll("svg.axis")].flatMap((axis) => {
  const head = axis.closest("thead");
  if (head && getComputedStyle(head).position === "absolute") return []; // hidden: cells carry their names instead
  const shown = [...axis.querySelectorAll("text")].filter((text) => text.getClientRects().length);
  const boxes = shown.map((text) => text.getBoundingClientRect());
  return boxes.slice(1).filter((box, at) => box.left < boxes[at].right + 1).map(() => axis.textContent);
})"""


def test_no_view_scrolls_sideways_and_no_labels_collide(page: Page) -> None:
    for address in (
        fragment("overview"),
        fragment("line", line=HOSTILE),
        "v=line&line=poor",
        "v=queue",
        "v=conditions",
        "v=image",
    ):
        view(page, address)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (address[:20], width)
            assert page.evaluate(OVERLAPS) == [], (address[:20], width)


def test_every_view_opens_by_its_address(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    for address, title in (
        ("", "Run"),
        (fragment("line", line=HOSTILE), "<img src=x"),
        ("line-2", "poor"),  # as in an older report
        ("v=conditions", "Conditions"),
        ("v=image", "<img src=x"),
        ("v=image&sort=__proto__", "<img src=x"),
        (f"v=queue&{urlencode({'kind': 'bad image'})}", "Look at these next"),
    ):
        page.goto("about:blank")
        page.goto(f"{report.as_uri()}#{address}")
        assert heading(page).startswith(title)
        assert page.locator("#lost").is_hidden()
    page.goto("about:blank")
    page.goto(f"{report.as_uri()}#{fragment('image', line=HOSTILE, id='nowhere')}")
    assert page.locator("#lost").inner_text() == "There is no picture of “nowhere” in this report."
    assert page.locator("[data-part=line]").input_value() == HOSTILE
    assert heading(page).startswith("<img src=x")
    page.close()


def test_only_the_shown_view_is_in_the_document(page: Page) -> None:
    for address in ("v=overview", fragment("line", line="line-3"), "v=queue", "line-2"):
        view(page, address)
        assert page.locator(".view").count() == 1
    page.locator("#find").fill("line-1")
    page.locator("#find").press("Enter")
    assert heading(page) == "line-1"


def test_images_near_the_threshold_come_first(page: Page) -> None:
    view(page, fragment("image", line=HOSTILE, sort="near"))
    order = page.locator("[data-part=film] button")
    names = [order.nth(at).get_attribute("title") for at in range(order.count())]
    assert [name[-1] for name in names if name] == ["2", "1", "3", "0", "4", "5"]  # excess 0, -1, 1, -2, 2, 3
    assert heading(page).endswith("2")


def test_an_unknown_line_is_said(page: Page) -> None:
    view(page, fragment("line", line="lime-4"))
    assert page.locator("#lost").inner_text() == "There is no line “lime-4” in this run. Did you mean line-4?"
    page.locator("#lost a").click()
    assert heading(page) == "line-4"
    assert page.locator("#lost").is_hidden()


def test_tables_sort_by_value_and_what_is_unknown_comes_last(page: Page) -> None:
    names = page.locator(".matrix tbody th a")
    column = page.locator(".matrix thead button", has_text="image AUROC")
    column.focus()
    page.keyboard.press("Enter")
    assert names.all_inner_texts()[-1] == "broken"
    column.click()
    assert names.all_inner_texts()[0] == "poor"
    assert names.all_inner_texts()[-1] == "broken"
    assert page.locator(".matrix th[aria-sort=ascending]").count() == 1


def test_lines_are_found(page: Page) -> None:
    rows = page.locator(".matrix tbody tr:visible")
    page.keyboard.press("/")
    page.keyboard.type("INE-")
    assert rows.count() == 4
    page.locator("#lines select[data-by=run]").select_option("padim")
    assert 0 < rows.count() < 4
    assert "of 7 lines" in page.locator("#count").inner_text()
    assert "run=padim" in page.url
    page.locator("#find").fill("nowhere")
    assert page.locator("#count").inner_text() == "no line fits"
    page.locator("#find").fill("line-3")
    page.locator("#find").press("Escape")
    settle(page)
    assert rows.count() > 0
    assert "v=line" not in page.url
    page.locator("#find").fill("line-4")
    page.locator("#find").press("Enter")
    assert heading(page) == "line-4"


def test_what_needs_a_person_leads_there(page: Page) -> None:
    page.locator(".tasks a", has_text="bad pictures").click()
    settle(page)
    items = page.locator("[data-item]:visible")
    assert items.count() == 3
    assert page.locator("[data-count]").inner_text() == "3 of 4 shown"
    page.locator("select[data-filter=signal]").select_option("layout")
    assert items.count() == 2
    page.reload()
    assert items.count() == 2
    view(page, "v=queue&kind=near+threshold")  # as in the link to flags that are not in the page
    assert page.locator("[data-count]").inner_text() == "nothing fits"
    page.go_back()
    page.go_back()
    page.locator(".segments .poor").click()
    settle(page)
    assert page.locator(".matrix tbody tr:visible").count() == 1


def saved(page: Page) -> list[dict[str, str]]:
    """Save the decisions, and return the rows of the file."""
    with page.expect_download() as download:
        page.locator("[data-part=save]").click()
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_decisions_are_kept_and_saved(page: Page) -> None:
    view(page, "v=queue")
    done = page.locator("[data-part=done]")
    page.locator("[data-part=by]").fill("Lee")
    page.locator("[data-part=by]").press("Enter")
    for key in ("n", "b", "u", "z"):
        page.keyboard.press(key)
    assert done.inner_text() == "2 of 4 decided"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("d")
    page.keyboard.type('bent, "twice"')
    page.keyboard.press("Enter")
    page.locator("select[data-filter=line]").select_option("line-1")
    assert done.inner_text() == "1 of 1 decided"
    view(page, "v=queue")
    page.reload()
    assert done.inner_text() == "2 of 4 decided"
    page.locator("[data-item]").last.click()
    page.locator("[data-decide=ok]").click()
    rows = saved(page)
    assert [(row["decision"], row["label"], row["line"], row["sha256"]) for row in rows] == [
        ("ng", "ng", "line-1", "5" * 64), ("ng", "ok", HOSTILE, ""), ("ok", "ok", HOSTILE, ""),
    ]  # fmt: skip
    assert {row["decided_by"] for row in rows} == {"Lee"}
    assert rows[1]["defect_type"] == 'bent, "twice"'
    assert rows[1]["image_id"] == HOSTILE + "0"
    assert all(datetime.fromisoformat(row["decided_at"]) <= datetime.now(UTC) for row in rows)


def test_without_storage_decisions_last_as_long_as_the_page(page: Page, report: Path) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    page.goto(f"{report.as_uri()}?again#v=queue")
    page.keyboard.press("o")
    assert page.locator("[data-part=unkept]").is_visible()
    assert [row["decision"] for row in saved(page)] == ["ok"]


def measured(excess: npt.NDArray[np.float64], limit: float, label: str) -> Estimate:
    """The share of line-2's images with this label above a threshold, as the board has it."""
    seen, _ = scored()
    is_label = np.array([image.label == label for image in seen])
    groups = group_numbers(np.array([image.group for image in seen])[is_label])
    return share_of(excess[is_label] > limit, groups, label)


def test_moved_thresholds_are_computed_as_the_board_is(page: Page) -> None:
    seen, held_out = scored()
    rules: list[dict[str, str | float | None]] = [{"by": None, "at": None}]
    rules += [{"by": "promised", "at": at} for at in (0.005, 0.05, 0.1, 0.23, 0.5)]
    rules += [{"by": "excess", "at": at} for at in (-0.995, -0.305, 0.715, 3.0)]
    rules += [{"by": "recall", "at": at} for at in (0.01, 0.5, 0.9, 1.0)]
    found = page.evaluate(
        """rules => { const line = scoresOf(views.find((view) => view.dataset.line === "line-2"));
        const costs = { ng: 20, missed: 50, alarm: 2 };
        return rules.map((rule) => line.models.map((model) => operatingPoint(line, model, rule, costs))); }""",
        rules,
    )
    for rule, points in zip(rules, found, strict=True):
        assert {point["model"] for point in points} == {"padim", HOSTILE}
        for point in points:
            excess = np.array([image.excess[point["model"]] for image in seen])
            ng = np.sort(excess[[image.label == "ng" for image in seen]])[::-1]
            held, at = held_out[point["model"]], float(rule["at"] or 0.0)
            set_anew = conformal_threshold(np.array(held.excess), at or 0.05, np.array(held.groups).astype(str))
            limit = {
                None: 0.0,
                "promised": set_anew.value or 0.0,
                "excess": at,
                "recall": np.nextafter(ng[math.ceil(min(abs(at), 1.0) * len(ng)) - 1], -9),
            }[rule["by"]]  # type: ignore[index]
            recall, alarms = measured(excess, limit, "ng"), measured(excess, limit, "ok")
            for number, name in ((recall, "recall"), (alarms, "alarms")):
                ends = [point[name][end] for end in ("value", "low", "high", "n")]
                assert ends == pytest.approx([number.value, number.low, number.high, number.n], abs=1e-6)
            cost = 20 * 50 * (1 - (recall.value or 0.0)) + 980 * 2 * (alarms.value or 0.0)
            assert point["cost"]["value"] == pytest.approx(cost, abs=1e-6)
            if rule["by"] == "promised":
                assert point["promised"]["value"] == pytest.approx(set_anew.promised, abs=1e-9)
                if len(set(held.groups)) == 40:
                    rank = min(math.ceil(41 * (1 - at) - 1e-9), 40)
                    ends = [point["promised"][end] for end in ("low", "high")]
                    assert ends == pytest.approx(false_alarm_interval(40, rank), abs=1e-6)


def test_disagreement_is_counted(page: Page) -> None:
    seen, _ = scored()
    flags = {name: np.array([image.excess[name] > 0.715 for image in seen]) for name in ("padim", HOSTILE)}
    found = page.evaluate(
        """() => { const line = scoresOf(views.find((view) => view.dataset.line === "line-2"));
        const { images, pairs } = disagreement(line, { by: "excess", at: 0.715 });
        return [line.models.map(({ model }) => model), images.map(({ id }) => id), pairs]; }"""
    )
    differ = flags["padim"] != flags[HOSTILE]
    assert 0 < differ.sum() < 80
    assert found[2] == [[0, differ.sum()], [differ.sum(), 0]]
    assert set(found[1]) == {image.image_id for image, is_divided in zip(seen, differ, strict=True) if is_divided}
    view(page, fragment("line", line="line-2", by="excess", at="0.715"))
    rows = page.locator("[data-part=images]:visible tr")
    assert rows.count() == min(differ.sum(), 40)
    first = seen[int(np.flatnonzero(differ)[0])]
    cells = rows.first.locator(".flagged, .passed").evaluate_all("cells => cells.map(cell => cell.className)")
    assert cells == ["flagged" if first.excess[name] > 0.715 else "passed" for name in found[0]]


def test_a_moved_threshold_is_marked_until_it_is_reset(page: Page) -> None:
    view(page, fragment("line", line="line-2"))
    rows = page.locator("[data-part=rows]:visible tr")
    before = rows.all_inner_texts()
    assert len(before) == 2
    page.locator("input[value=promised]:visible").check()
    page.locator("[data-part=slider]:visible").fill("0.5")
    assert rows.all_inner_texts() != before
    assert "by=promised&at=0.5" in page.url
    assert page.locator(".small-picture.new:visible").count() > 0
    kept = page.locator("[data-part=yaml]:visible").inner_text()
    written = f"name: night\nstore: out\nlines: [line-2]\nmodels: [padim]\n{kept}\n"
    assert parse_experiment(written).on("line-2").threshold == ThresholdChoice(promised=0.5)
    view(page, "v=overview")
    assert "promised false-alarm rate 50 %" in page.locator("#moved").inner_text()
    mark = "head => getComputedStyle(head, '::after').content"
    assert "◆" in page.locator(".matrix th.at-threshold").first.evaluate(mark)
    page.locator("[data-part=reset]").click()
    assert page.locator("#moved").is_hidden()
    view(page, fragment("line", line="line-2"))
    assert rows.all_inner_texts() == before


def test_the_heat_map_fades(page: Page) -> None:
    view(page, fragment("line", line=HOSTILE))
    page.locator("[data-heat]:visible").fill("0.25")
    assert page.locator(".view:visible .heat").first.evaluate("heat => getComputedStyle(heat).opacity") == "0.25"


def colours(page: Page, model: str) -> npt.NDArray[np.int_]:
    """How colourful the four corners of a model's tile are, (2, 2); grey is 0."""
    tiles = page.locator(".tiles [data-model]")
    at = tiles.evaluate_all("(tiles, model) => tiles.findIndex((tile) => tile.dataset.model === model)", model)
    shot = cv2.imdecode(np.frombuffer(tiles.nth(at).locator(".frame").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    height, width = shot.shape[:2]
    spots = shot[[height // 6, height - height // 6]][:, [width // 6, width - width // 6]].astype(int)
    spread: npt.NDArray[np.int_] = spots.max(axis=2) - spots.min(axis=2)
    return spread


def test_every_model_shows_its_own_heat_map(page: Page) -> None:
    view(page, fragment("image", line=HOSTILE))
    for model, hot in (("padim", [[True, False], [False, False]]), (HOSTILE, [[False, False], [False, True]])):
        assert ((colours(page, model) > 40) == hot).all()
    page.keyboard.press("t")  # above the pixel threshold: only padim's is
    assert colours(page, "padim")[0, 0] > 40
    assert colours(page, HOSTILE).max() < 40
    page.keyboard.press("h")
    assert colours(page, "padim").max() < 40


def test_the_keys_of_the_images(page: Page) -> None:
    view(page, fragment("image", line=HOSTILE))
    place = page.locator("[data-part=position]")
    assert page.locator(".tiles > *").count() == 3 + 2  # models, source, votes
    assert page.locator(".tiles .missing").count() == 1  # dfm has no heat map in the page
    page.keyboard.press("ArrowLeft")
    assert place.inner_text() == "1 of 6"
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "2 of 6"
    assert HOSTILE[:10] in parse_qs(page.url.partition("#")[2])["id"][0]
    page.keyboard.press("1")
    assert page.locator(".tiles > :visible").count() == 2
    page.reload()
    settle(page)
    assert page.locator(".tiles > :visible").count() == 2
    assert place.inner_text() == "2 of 6"
    page.keyboard.press("a")
    assert page.locator(".tiles > :visible").count() == 5
    page.keyboard.press("n")
    assert page.locator(".votes .note").is_visible()
    page.keyboard.press("r")
    assert page.locator("[data-part=own]").is_visible()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.locator("#find").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.type("1m")
    assert page.locator(".tiles > :visible").count() == 5
    page.locator("#find").evaluate("input => input.blur()")
    page.keyboard.press("Escape")
    assert heading(page).startswith("<img src=x")


@pytest.fixture(scope="module")
def folder(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a picture in the page and one beside it."""
    place = tmp_path_factory.mktemp("beside")
    maps = (HeatMap("padim", corner(0), 127),)
    grey = np.full((60, 90, 3), 200, np.uint8)
    inside = Picture("line-1", "inside", "ok", {"padim": -1.0}, grey, maps=maps)
    pictures = [inside, replace(inside, image_id="beside", is_beside=True), replace(inside, is_thumbnail=True)]
    flag = Flag("line-1", "beside", "ok", ("padim",), 1, 1.0, "models disagree", "", ("models disagree",))
    pictures[2] = replace(pictures[2], image_id="beside")
    (place / "index.html").write_text(render(board, [flag], pictures), encoding="utf-8")
    for picture in pictures:
        for name, data in picture.files.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(data)
    return place


class Untyped(http.server.SimpleHTTPRequestHandler):
    """As a store that knows no type of pictures."""

    extensions_map = {".html": "text/html"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Where the report of `folder` is opened."""
    if request.param == "file":
        yield folder.as_uri()
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Untyped, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_pictures_beside_the_page_are_seen_by_all_models(browser: Browser, address: str) -> None:
    page = browser.new_page()
    said, asked = list[str](), set[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.add(request.url))
    page.goto(f"{address}/index.html#{fragment('image', line='line-1', id='beside')}")
    for _ in range(100):
        if len([url for url in asked if "/files/" in url]) == 2:
            break
        page.wait_for_timeout(50)
    assert (colours(page, "padim") > 40).tolist() == [[True, False], [False, False]]
    assert page.locator("#alone").is_hidden()
    view(page, "v=queue")
    assert (page.locator("[data-item] img").get_attribute("src") or "").startswith("data:")
    page.locator("[data-item] a.frame").click()
    assert heading(page) == "beside"
    assert {
        url for url in asked if not url.startswith((f"{address}/index.html", f"{address}/files/", "data:"))
    } == set()
    assert said == []
    page.close()


def test_a_page_that_was_sent_alone_says_what_is_missing(browser: Browser, folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "index.html", tmp_path)
    page = browser.new_page()
    page.goto(f"{(tmp_path / 'index.html').as_uri()}#{fragment('image', line='line-1', id='inside')}")
    assert (colours(page, "padim") > 40).tolist() == [[True, False], [False, False]]
    page.keyboard.press("ArrowRight")
    page.locator("#alone").wait_for(timeout=5000)
    assert "beside this page" in page.locator("#alone").inner_text()
    page.close()


def test_a_very_tall_picture_fits_the_screen(page: Page) -> None:
    view(page, fragment("line", line="line-1"))
    box = page.locator("[data-id=tall] .frame").bounding_box()
    assert box is not None
    assert box["height"] <= 330
    assert box["width"] == pytest.approx(box["height"] / 40, rel=0.1)


def test_pictures_lead_to_all_their_heat_maps(page: Page) -> None:
    view(page, fragment("line", line=HOSTILE))
    titles = page.locator("section:visible .gallery h2").all_inner_texts()
    assert [title.partition("  ")[0].rpartition(":")[2] for title in titles[:-1]] == [" 2", " 1"]
    figure = page.locator("section:visible [data-picture]").last
    name = figure.get_attribute("data-id")
    figure.locator("a").click()
    settle(page)
    assert page.locator("[data-part=id]").text_content() == name
    view(page, fragment("image", line=HOSTILE, id="nowhere"))
    assert page.locator("#lost").inner_text() == "There is no picture of “nowhere” in this report."


def test_without_scripts_and_in_print_all_is_there(browser: Browser, report: Path, page: Page) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(report.as_uri())
    page.emulate_media(media="print")
    settle(page)
    for shown in (plain, page):
        assert shown.locator(".view").filter(visible=True).count() == 10
        assert shown.locator(".view.line h1").filter(visible=True).count() == 7
        assert shown.locator(".controls").filter(visible=True).count() == 0
    assert plain.locator("section.line img").count() == 8
    plain.locator(".matrix a", has_text="line-4").click()
    place = plain.locator(f"[id='{fragment('line', line='line-4')}']")
    for _ in range(50):  # a busy browser scrolls a little later
        if place.evaluate("view => view.getBoundingClientRect().top") < 200:
            break
        plain.wait_for_timeout(50)
    assert place.evaluate("view => view.getBoundingClientRect().top") < 200
    context.close()


def test_markup_cannot_be_injected(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>'; return ''; } catch (error) { return error.name; } }"
    )
    page.close()
    assert refused == "TypeError"


REACHABLE = """() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")].filter(
  (each) => each.tabIndex >= 0 && !each.disabled && each.checkVisibility({ visibilityProperty: true })).length"""
"""How many elements the Tab key stops at."""
FOCUSED = """() => {
  const here = document.activeElement;
  if (here === document.body) return "";
  const box = here.getBoundingClientRect();
  const isOutlined = getComputedStyle(here).outlineStyle !== "none";
  const isInView = box.bottom > 0 && box.top < innerHeight && box.width > 0;
  return isOutlined && isInView ? "" : `${here.outerHTML.slice(0, 80)} ${isOutlined} ${isInView}`;
}"""
"""What is wrong with the focused element; empty if it is in sight and outlined."""
VIEWS = (
    "v=overview",
    fragment("line", line=HOSTILE),
    fragment("line", line="line-2", by="promised", at="0.5"),
    fragment("line", line="broken"),
    fragment("image", line=HOSTILE),
    "v=queue",
    "v=conditions",
)


def dress(page: Page, scheme: str) -> None:
    """Switch the page to its light or dark colours."""
    while page.evaluate("document.documentElement.dataset.theme") != scheme:
        page.locator("#theme").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Page, scheme: str) -> None:
    contrasts = Path(__file__, "../../support/contrast.js").resolve().read_text(encoding="utf-8")
    dress(page, scheme)
    for address in VIEWS:
        view(page, address)
        assert page.evaluate(contrasts) == []


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_axe_finds_nothing(page: Page, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe is not installed: make setup")
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(axe.AXE_SCRIPT)
    dress(page, scheme)
    for address in VIEWS:
        view(page, address)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], address


def test_axe_finds_nothing_on_the_other_pages(browser: Browser, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe is not installed: make setup")
    row = Predicted(HOSTILE, HOSTILE, HOSTILE, 2.0, True, 1.0, 1.0, 10, 10, True)
    summary = PredictionSummary(
        run="night", prediction="today", source=HOSTILE, line="strip", model="padim", unit_id="u", images=3,
        anomalous=1, threshold=Threshold(1.0, 9, 0.1, 0.1, 0.5), odd_sizes=1, rejected={HOSTILE: 1}, not_scored=0,
        failed={"shard": Failure("score", "BadScores", HOSTILE, HOSTILE, 1)}, top=(row,), sentence="One.",
    )  # fmt: skip
    picture = image_uri(np.full((60, 90, 3), 200, np.uint8))
    pages = [tmp_path / "predictions.html"]
    pages[0].write_text(predictions.render(summary, [PredictionCard(row, picture, picture)]), encoding="utf-8")
    images = write_strips(tmp_path / "images", Sizes(6, 2, 2, 0))
    (images / "train" / "good" / "cut off.png").write_bytes(b"cut off")
    lines = open_store(str(tmp_path / "store")).sub("lines")
    manifest = pack(open_store(str(images)), lines, "strip", PackOptions())
    pages.append(write_contact_sheet(Line(lines, manifest), tmp_path / "sheet"))
    pages.append(tmp_path / "comparison.html")
    before, now = (made.found(name, {"cap": made.scores(gap)}) for name, gap in (("then", 4.0), ("now", 1.0)))
    pages[-1].write_text(render_comparison(made.compared(before, now), {}), encoding="utf-8")
    for path in pages:
        opened = browser.new_page(viewport={"width": 390, "height": 900})
        opened.goto(path.as_uri())
        opened.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            opened.evaluate(axe.AXE_SCRIPT)
            violations = opened.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == [], (path, scheme)
        opened.close()


def lightness(page: Page, selector: str) -> float:
    """The lightness (CIE L*) of an element's fill as the browser draws it, beside its text."""
    shot = cv2.imdecode(np.frombuffer(page.locator(selector).screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    light = cv2.cvtColor(shot[2:-3, 2:4].astype(np.float32) / 255, cv2.COLOR_BGR2LAB)[..., 0]
    return float(light.mean())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_grades_are_told_apart_with_every_kind_of_colour_vision(page: Page, scheme: str) -> None:
    dress(page, scheme)
    protocol = page.context.new_cdp_session(page)
    for vision in ("none", "protanopia", "deuteranopia", "tritanopia", "achromatopsia"):
        protocol.send("Emulation.setEmulatedVisionDeficiency", {"type": vision})
        cells = [f".legend.keys .c.{style}" for style in ("named.best", "best:not(.named)", "worse")]
        fills = [lightness(page, cell) for cell in cells]
        assert all(abs(a - b) >= 20 for a, b in itertools.pairwise(fills)), (vision, fills)


def test_the_keyboard_reaches_everything_and_focus_can_be_seen(page: Page) -> None:
    seen: list[str] = []
    for address in ("v=overview", fragment("line", line="line-2"), fragment("image", line=HOSTILE), "v=queue"):
        view(page, address)
        page.evaluate("document.activeElement.blur()")
        wanted = page.evaluate(REACHABLE)
        for _ in range(wanted):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(FOCUSED))
        assert [each for each in seen if each] == [], address
