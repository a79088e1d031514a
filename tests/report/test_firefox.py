"""The report in an installed Firefox, opened from a file. What it shares with Chromium is tested there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raybench.report.overview import fragment
from tests.report.test_browser import HOSTILE, board, folder, report  # noqa: F401
from tests.support.firefox import FIREFOX, Firefox, firefox

LEFT, RIGHT = "\ue012", "\ue014"
SETTLED = "return [document.querySelectorAll('.view').length, document.querySelector('.view h1').textContent]"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    if FIREFOX is None:
        pytest.skip("no Firefox on this machine")
    with firefox(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1400, 900)
        yield opened


def view(window: Firefox, address: str) -> str:
    """Go to a view and return its heading."""
    window.run("location.hash = arguments[0]; window.dispatchEvent(new Event('hashchange'));", address)
    count, heading = window.run(SETTLED)
    assert count == 1
    return str(heading)


def corners(window: Firefox) -> list[bool]:
    """Whether the heat map of padim is hot in the upper left and in the lower right."""
    left, top, width, height = window.run(
        "const box = document.querySelector('.tiles [data-model=padim] .frame').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height].map(Math.round)"
    )
    tile = window.screenshot()[top : top + height, left : left + width].astype(int)
    colour = tile.max(axis=2) - tile.min(axis=2)
    return [bool(colour[height // 6, width // 6] > 40), bool(colour[height - height // 6, width - width // 6] > 40)]


def test_every_view_opens(window: Firefox, report: Path) -> None:  # noqa: F811
    window.open(report.as_uri())
    assert view(window, "v=overview").startswith("Run")
    assert view(window, fragment("line", line=HOSTILE)) == HOSTILE
    assert view(window, "v=queue") == "Look at these next"
    assert view(window, "v=conditions") == "Conditions"
    for width in (1400, 600):
        window.size(width, 900)
        for address in ("v=overview", fragment("line", line="line-2"), "v=image", "v=queue"):
            view(window, address)
            assert window.run("return document.documentElement.scrollWidth <= innerWidth"), (address, width)
    window.size(1400, 900)


def test_thresholds_move_and_decisions_are_kept(window: Firefox, report: Path) -> None:  # noqa: F811
    window.open(report.as_uri())
    view(window, fragment("line", line="line-2"))
    rows = "return document.querySelector('[data-part=rows]').textContent"
    before = window.run(rows)
    window.run("document.querySelector('[name=rule][value=promised]').click();")
    window.run("const slider = document.querySelector('[data-part=slider]'); slider.value = 0.5;"
               "slider.dispatchEvent(new Event('input'));")  # fmt: skip
    assert window.run(rows) != before
    assert window.run("return !document.querySelector('#moved').hidden")
    view(window, "v=queue")
    window.press("o", "n")
    assert window.run("return document.querySelector('[data-part=done]').textContent") == "2 of 4 decided"


def test_pictures_in_the_page_and_beside_it_are_drawn(window: Firefox, folder: Path) -> None:  # noqa: F811
    window.open(f"{folder.as_uri()}/index.html#{fragment('image', line='line-1', id='inside')}")
    for name in ("inside", "beside"):
        assert window.run("return document.querySelector('[data-part=id]').textContent") == name
        until = time.monotonic() + 20
        while (found := corners(window)) != [True, False] and time.monotonic() < until:
            time.sleep(0.1)  # pictures are drawn a little later
        assert found == [True, False]
        window.press(RIGHT)
    assert window.run("return document.querySelector('#alone').hidden")
    window.press(LEFT, "?")
    assert window.run("return document.querySelector('#help').open")
