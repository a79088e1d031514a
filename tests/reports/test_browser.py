"""The report in a real browser, opened from a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright
from test_reports import unit

from raybench.findings.board import BoardContext, build_board
from raybench.findings.flags import build_flags, look, top_images
from raybench.reports.gallery import Picture
from raybench.reports.html import render

CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
HOSTILE = "<img src=x onerror=alert(1)> ü\"'&\n" + "long" * 60


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    units = [unit("padim", 3.0, 0), unit("fake", 0.3, 1), unit(HOSTILE, 2.5, 2)]
    results, scores = [result for result, _ in units], {result.unit_id: images for result, images in units}
    context = BoardContext("night", "2026-01-01T00:00:00+00:00", "d" * 64, {"raybench": "0.1"}, 0.05)
    seen = look(results, scores)
    rng = np.random.default_rng(0)
    pictures = [
        Picture(
            one.line, HOSTILE + one.image_id, one.label, one.excess, one.flagged_by, "padim",
            rng.integers(0, 255, (60, 90, 3)).astype(np.uint8), rng.random((60, 90)).astype(np.float32),
            np.zeros((60, 90), bool), 0.0, 0.5,
        )
        for one in top_images(seen, 6)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(build_board(results, scores, context), build_flags(seen), pictures, seen), encoding="utf-8")
    return path


@pytest.fixture
def page(report: Path) -> Iterator[Page]:
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
