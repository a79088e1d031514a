"""What a run changed against an earlier one, as a page, as JUnit XML and for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from rich.table import Table
from rich.text import Text

from raybench.analysis.run_comparison import WORDS, LineChange, ModelChange, RunComparison, format_change
from raybench.analysis.verdict import Verdict
from raybench.config.plan import Plan
from raybench.metrics.numbers import Estimate
from raybench.report.gallery import THUMBNAIL_SIDE, shrink, uri
from raybench.report.html import part, template
from raybench.report.marks import Axis, Dot, dot

PICTURES_PER_LINE, PICTURES = 12, 240
"""Flips shown as pictures, at most; the others are listed by id."""
CHANGE = Axis(-0.3, 0.3, (-0.3, 0, 0.3), reference=0.0)
FLIPS = {
    "newly_missed": "newly missed",
    "newly_caught": "newly caught",
    "new_alarms": "new false alarms",
    "gone_alarms": "false alarms gone",
}
STYLES = {"worse": "failed", "better and worse": "failed", "better": "best", "not comparable": "none"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
Pictures = Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class FlipGroup:
    """Images on which the two named models decide differently, in one way."""

    title: str
    images: tuple[tuple[str, str], ...]
    """Id and picture of each; the picture is empty where none is shown."""


def write_comparison(plan: Plan, comparison: RunComparison, folder: Path) -> Path:
    """Write a comparison as a page, with pictures of the images that changed sides.

    Args:
        plan: The later run's.
        comparison: What changed.
        folder: Local folder.

    Returns:
        The path of the page, `<folder>/<later run>/compare/<earlier run>.html`.
    """
    page = folder / comparison.new / "compare" / f"{comparison.old}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_comparison(comparison, read_flips(plan, comparison)), encoding="utf-8")
    return page


def read_flips(plan: Plan, comparison: RunComparison) -> Pictures:
    """Read small pictures of the images that changed sides, from the later run's lines.

    Returns:
        Data URIs by line and image id.
    """
    pictures: dict[tuple[str, str], str] = {}
    for line in comparison.lines:
        wanted = set(_flipped(line)[: min(PICTURES_PER_LINE, PICTURES - len(pictures))])
        if not wanted:
            continue
        for image in plan.line(line.line).images(wanted, ("test", "unlabelled")):
            pictures[line.line, image.image_id] = uri(shrink(image.pixels, THUMBNAIL_SIDE))
    return pictures


def render_comparison(comparison: RunComparison, pictures: Pictures) -> str:
    """Return the comparison as a page without scripts."""
    words = Counter(line.word for line in comparison.lines)
    return template("comparison.html.j2").render(
        comparison=comparison,
        counts=[(word, words[word]) for word in WORDS if words[word]],
        dots={line.line: _dots(line.named) for line in comparison.lines},
        flips={line.line: _flip_groups(line, pictures) for line in comparison.lines},
        verdict_words=verdict_words,
        format_change=format_change,
        axis=CHANGE,
        styles=STYLES,
        style=part("base.css") + part("page.css"),
        policy=POLICY,
    )


def console_comparison(comparison: RunComparison) -> Table:
    """Return the comparison as a table for a terminal."""
    table = Table("line", "", "run", "image AUROC", "recall", "false alarms", "missed", "caught", box=None,
                  header_style="bold")  # fmt: skip
    for line in comparison.lines:
        change = line.named
        table.add_row(
            Text(line.line),
            Text(line.word, style={"worse": "red", "better and worse": "red", "better": "green"}.get(line.word, "")),
            Text(f"{verdict_words(line.old)} → {verdict_words(line.new)}"),
            *(format_change(number) for number in (change.image_auroc, change.recall, change.false_alarms))
            if change
            else ("–",) * 3,
            f"+{len(change.newly_missed)}" if change else "–",
            f"+{len(change.newly_caught)}" if change else "–",
        )
    return table


def junit(comparison: RunComparison, results: Mapping[str, Mapping[str, str | None]]) -> str:
    """Return the checks as JUnit XML: a test case for each condition and line.

    Args:
        comparison: The comparison.
        results: By condition, what `RunComparison.check` returned.
    """
    root = Element("testsuites", name=f"raybench compare {comparison.old} {comparison.new}")
    notes = {line.line: "; ".join(line.notes) for line in comparison.lines}
    for condition, by_line in results.items():
        said = list(by_line.values())
        suite = SubElement(
            root,
            "testsuite",
            name=condition,
            tests=str(len(said)),
            failures=str(sum(bool(text) for text in said)),
            errors="0",
            skipped=str(said.count(None)),
        )
        for line, text in by_line.items():
            case = SubElement(suite, "testcase", classname=printable(line), name=condition)
            if text is None:
                SubElement(case, "skipped", message=printable(notes[line] or "cannot be told"))
            elif text:
                SubElement(case, "failure", message=printable(text), type=condition)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def verdict_words(verdict: Verdict | None) -> str:
    """Return the named model and its grade."""
    if verdict is None:
        return "no results"
    return f"{verdict.run} ({verdict.grades.get(verdict.run, '')})" if verdict.run else "no verdict"


def printable(text: str) -> str:
    """Replace what XML cannot hold, such as control characters."""
    return "".join(
        each if each in "\t\n" or (each >= " " and not "\ud800" <= each <= "\udfff") else "�" for each in text
    )


def _dots(change: ModelChange | None) -> tuple[Dot, ...]:
    unknown = Estimate(None, reason="no model is named")
    numbers = (change.image_auroc, change.recall, change.false_alarms) if change else (unknown,) * 3
    names = ("image AUROC", "recall", "false alarms")
    return tuple(
        replace(dot(f"change of {name}:", number, CHANGE, "+.3f"), is_strong=_is_sure(number))
        for name, number in zip(names, numbers, strict=True)
    )


def _is_sure(number: Estimate) -> bool:
    return number.low is not None and number.high is not None and (number.low > 0 or number.high < 0)


def _flipped(line: LineChange) -> Sequence[str]:
    if line.named is None:
        return ()
    return list(dict.fromkeys(image_id for name in FLIPS for image_id in getattr(line.named, name)))


def _flip_groups(line: LineChange, pictures: Pictures) -> tuple[FlipGroup, ...]:
    if line.named is None:
        return ()
    groups = ((words, getattr(line.named, name)) for name, words in FLIPS.items())
    return tuple(
        FlipGroup(words, tuple((each, pictures.get((line.line, each), "")) for each in ids))
        for words, ids in groups
        if ids
    )
