from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser

import pytest
from rich.console import Console

from raybench.analysis.board import BoardContext, build_board
from raybench.data.inspection.drift import Drift
from raybench.data.inspection.duplicates import Copy, Group
from raybench.data.inspection.inspection import Inspection
from raybench.data.inspection.outliers import Issue, Trait
from raybench.data.manifest import Manifest, Reject, ShardInfo
from raybench.report.html import render
from raybench.report.inspection import EXPLAINED, NAMED, SHOWN, WORST, Section, section, table
from raybench.runs.records import FailedUnit, Failure

EVIL = '<img onerror=alert(1)>.png"'


def manifest(rejects: tuple[Reject, ...] = ()) -> Manifest:
    shards = (ShardInfo("strip/train-00000.parquet", "train", 100, 9, "0", 5, "0"),)
    return Manifest("strip", 2, "mvtec", {"train/ok": 100}, 0, 9, 9, 9, 9, 9, 9, 255, shards, rejects)


def inspection(issues: int = 7, counts: Mapping[str, int] | None = None) -> Inspection:
    copies = tuple(Copy(f"{EVIL}{at}", "train", "ok") for at in range(NAMED + 3))
    return Inspection(
        version=1,
        line="strip",
        line_digest="0",
        images=100,
        counts=counts or {"blur": issues, "near duplicates": len(copies)},
        issues=tuple(Issue(f"{EVIL}{at}", "train", "blur", 9.0 - at, f"why {EVIL}") for at in range(issues)),
        traits=(Trait("dark", 90, 0.9, "dark", ("a", "b", "c")),),
        groups=(Group("near", 0.04, copies),),
        drifts=(Drift("test", "contrast", 20, 0.1, 0.2, 0.7, 1e-9), Drift("test", "sharpness", 20, 0, 0, 0.1, 1.0)),
    )


def page(sections: Mapping[str, Section]) -> str:
    context = BoardContext("night", "2026-01-01", "0" * 64, {}, 0.05)
    failed = FailedUnit("unit", "strip", "padim", 0, Failure("train", "E", "m", "t", 1))
    return render(build_board([failed], {}, context, []), [], [], (), sections)


def test_the_worst_of_each_kind_are_shown_and_the_rest_counted() -> None:
    shown = section(inspection(issues=WORST + 2), manifest())
    assert [issue.image_id for issue in shown.worst] == [f"{EVIL}{at}" for at in range(WORST)]
    assert [(one.kind, one.images, one.share) for one in shown.findings] == [
        ("blur", WORST + 2, "7.0%"),
        ("near duplicates", NAMED + 3, "7.0%"),
    ]
    assert shown.copies[0].endswith("and 3 more")
    assert shown.verdict.startswith(f"{WORST + 2} of 100 images have something wrong with them; {NAMED + 3} images are")


def test_drift_is_told_with_its_numbers() -> None:
    shown = section(inspection(), manifest())
    assert shown.drifts == (
        "contrast of the OK test images is 0.2, of the OK training images 0.1 (medians; KS distance 0.70, corrected p "
        "1e-09)",
    )
    assert "splits differ in contrast" in shown.verdict
    assert "90 images (90%), so many that it is taken for this line's nature" in shown.usual[0]


def test_rejects_are_listed_without_an_inspection() -> None:
    rejects = tuple(Reject(f"{at}.png", "truncated", "the file is damaged") for at in range(SHOWN + 5))
    shown = section(None, manifest(rejects))
    assert not shown.inspected
    assert shown.verdict == "not inspected yet: raybench inspect STORE/lines/strip"
    assert len(shown.rejects) == SHOWN
    assert [(one.kind, one.images) for one in shown.findings] == [("rejected", SHOWN + 5)]


def test_a_failed_inspection_is_said_and_runs_nothing() -> None:
    shown = section(Failure("inspect", "IntegrityError", EVIL, "trace", 2), manifest())
    assert not shown.inspected
    assert shown.verdict == f"not inspected, attempt 2 ended with IntegrityError: {EVIL}; the same run tries it again"
    assert "IntegrityError: &lt;img onerror=alert(1)&gt;" in page({"strip": shown})


def test_every_kind_has_a_meaning() -> None:
    counts = dict.fromkeys(EXPLAINED, 1)
    counts.pop("rejected")
    found = section(inspection(counts=counts), manifest()).findings
    assert [one.kind for one in found] == list(counts)


def test_the_terminal_shows_names_as_they_are() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(section(inspection(), manifest())))
    assert f"{EVIL}0" in captured.get()


class _Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name) for name, _ in attrs if name.startswith("on")]


def test_the_page_holds_the_section_and_runs_nothing_from_it() -> None:
    html = page({"strip": section(inspection(), manifest((Reject(EVIL, "truncated", EVIL),)))})
    assert "Data quality: 7 of 100 images" in html
    assert "&lt;img onerror=alert(1)&gt;" in html
    parser = _Images()
    parser.feed(html)
    assert parser.found == []


@pytest.mark.parametrize("sections", [{}, {"other": section(None, manifest())}])
def test_a_page_without_the_section_is_whole(sections: Mapping[str, Section]) -> None:
    assert "Data quality" not in page(sections)
