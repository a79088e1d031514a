"""The report in a real browser, opened from a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from raybench.analysis.board import Board, BoardContext, build_board
from raybench.analysis.flags import build_flags, collect_scores, top_images
from raybench.report.gallery import Picture
from raybench.report.html import render
from tests.support.report_units import unit

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
BoardOf = Callable[[Mapping[str, Mapping[str, float | None]]], Board]
HOSTILE = "<img src=x onerror=alert(1)> ü\"'&\n" + "long" * 60


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    units = [unit("padim", 3.0, 0), unit("fake", 0.3, 1), unit(HOSTILE, 2.5, 2)]
    results, scores = [result for result, _ in units], {result.unit_id: images for result, images in units}
    context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {"raybench": "0.1"}, 0.05)
    seen = collect_scores(results, scores)
    rng = np.random.default_rng(0)
    pictures = [
        Picture(
            one.line, HOSTILE + one.image_id, one.label, one.excess, one.flagged_by, "padim",
            rng.integers(0, 255, (60, 90, 3)).astype(np.uint8), rng.random((60, 90)).astype(np.float32),
            np.zeros((60, 90), bool), 0.0, 0.5, ("", "scratch", "<b>bent</b>")[at % 3],
        )
        for at, one in enumerate(top_images(seen, 6))
    ]  # fmt: skip
    flags = [
        replace(
            build_flags(seen)[0], image_id=picture.image_id, signal=("defect", "layout")[at % 2], signal_confidence=0.9,
            signal_evidence=HOSTILE,
        )
        for at, picture in enumerate(pictures[:4])
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(build_board(results, scores, context), flags, pictures, seen), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def long_report(board_of: BoardOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine lines of rising quality."""
    board = board_of({f"line-{at}": {"padim": at / 3, "dfm": 3 - at / 3} for at in range(9)})
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(board, [], []), encoding="utf-8")
    return path


@pytest.fixture
def page(report: Path) -> Iterator[Page]:
    yield from opened_page(report)


@pytest.fixture
def long_page(long_report: Path) -> Iterator[Page]:
    yield from opened_page(long_report)


def opened_page(report: Path) -> Iterator[Page]:
    """The open page; afterwards: nothing was said on the console, no dialog, and nothing was asked for."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("dialog", lambda dialog: said.append(dialog.message))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(report.as_uri())
        yield opened
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_sorting(page: Page) -> None:
    table = page.locator("section table.sortable").first

    def models() -> list[str]:
        return [text.split("\n")[0][:5] for text in table.locator("tbody td:first-child").all_inner_texts()]

    column = table.locator("thead th", has_text="image AUROC").locator("button")
    column.focus()
    page.keyboard.press("Enter")
    assert models() == ["padim", "<img ", "fake"]
    column.click()
    assert models() == ["fake", "<img ", "padim"]
    assert table.locator("thead th[aria-sort=ascending]").count() == 1


def test_filters(page: Page) -> None:
    figures = page.locator("figure[data-item]")
    assert figures.count() == 6
    page.locator("select[data-filter=model]").select_option("padim")
    shown = [figures.nth(at).get_attribute("data-model") or "" for at in range(6) if figures.nth(at).is_visible()]
    assert shown
    assert all("padim" in models.split("\n") for models in shown)
    assert "shown" in page.locator("[data-count]").first.inner_text()


def test_flags_and_pictures_are_filtered_by_what_they_look_like(page: Page) -> None:
    items = page.locator("[data-item]").filter(visible=True)
    everything = items.count()
    for kind in ("layout", "defect"):
        page.locator("select[data-filter=signal]").select_option(kind)
        shown = items.evaluate_all("items => items.map((item) => [item.tagName, item.dataset.signal])")
        assert 0 < len(shown) < everything
        assert {tag for tag, _ in shown} == {"FIGURE", "TR"}
        assert {signal for _, signal in shown} == {kind}
    page.locator("select[data-filter=signal]").select_option("")
    assert items.count() == everything


def test_images_are_filtered_by_their_type_of_defect(page: Page) -> None:
    items = page.locator("[data-item]").filter(visible=True)
    for kind in ("scratch", "<b>bent</b>"):
        page.locator("select[data-filter=defect]").select_option(kind)
        shown = items.evaluate_all("items => items.map((item) => item.dataset.defect)")
        assert shown == [kind] * 3  # two pictures, and the flag of one of them


def test_the_heat_map_fades(page: Page) -> None:
    heat = page.locator("img.heat").first
    page.locator("input[type=range]").first.fill("0.25")
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "0.25"
    assert heat.evaluate("image => image.previousElementSibling.src.length > 100")


def test_charts_are_drawn_when_they_come_into_view(page: Page) -> None:
    charts = page.locator(".chart")
    assert charts.count() == 5
    charts.last.scroll_into_view_if_needed()
    charts.last.locator("svg.main-svg").first.wait_for()
    assert "padim" in charts.last.inner_text()


def test_a_phone_can_show_it(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def shown_lines(page: Page) -> tuple[list[str], list[str]]:
    """Lines in the table of lines, and lines below it."""
    rows = page.locator("#lines tbody tr").filter(visible=True)
    sections = page.locator("section[data-line]").filter(visible=True)
    # Not the inner texts: a section that is far away is not laid out and has none.
    return rows.locator("td:first-child").all_text_contents(), sections.locator("h2").all_text_contents()


def test_lines_are_found_by_name_and_by_what_they_run(long_page: Page) -> None:
    rows, sections = shown_lines(long_page)
    assert rows == sections
    assert len(rows) == 9
    search = long_page.locator("#find input")
    search.fill("INE-7")
    assert shown_lines(long_page) == (["line-7"], ["line-7"])
    assert "1 of 9 lines" in long_page.locator("#find").inner_text()
    search.fill("")
    long_page.locator("select[data-by=run]").select_option("padim")
    by_run = shown_lines(long_page)[0]
    assert 0 < len(by_run) < 9
    assert set(long_page.locator("#lines tbody tr:visible td:nth-child(3)").all_inner_texts()) == {"padim"}
    search.fill("line-0")
    assert shown_lines(long_page) == ([], [])


def test_the_table_of_lines_sorts_and_leads_to_a_line(long_page: Page) -> None:
    names = long_page.locator("#lines tbody td:first-child")
    long_page.locator("#lines thead th", has_text="line").first.locator("button").click()
    assert names.all_inner_texts()[0] == "line-8"
    names.first.locator("a").click()
    assert long_page.evaluate("document.querySelector(location.hash + ' h2').textContent") == "line-8"
