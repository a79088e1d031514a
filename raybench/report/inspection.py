"""A line's inspection for people: the data-quality section of the report, and the table of the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybench.data.inspection.drift import Drift
from raybench.data.inspection.duplicates import Group as Copies
from raybench.data.inspection.inspection import Inspection
from raybench.data.inspection.outliers import Issue
from raybench.data.manifest import Manifest
from raybench.runs.records import Failure

WORST = 5  # of each kind
SHOWN = 20  # groups, and rejects
NAMED = 4  # images of a group
EXPLAINED = {
    "unreadable": "Packed, but its pixels cannot be decoded: units that read it fail.",
    "dark": "Far darker than the line, or too dark by CleanVision's limit.",
    "over-exposed": "Far brighter than the line, or too bright by CleanVision's limit.",
    "blur": "Its finest edges are far wider than those of the line.",
    "low information": "Nearly empty: few bits per pixel.",
    "odd size": "Far larger or smaller than the line's images.",
    "odd shape": "Another height / width than the line's images.",
    "odd colours": "Grey among colour, or another bit depth than most of the line.",
    "leak": "A test image that is trained on too; its score says nothing.",
    "two labels": "The same pixels, labelled OK and NG.",
    "mask on an OK image": "Label and mask contradict each other; measures of pixels count it as defective.",
    "large mask": "Its mask covers more than half of it, as an inverted mask does.",
    "empty mask": "Labelled NG with a mask that marks nothing; measures of pixels count its defect as good.",
    "exact duplicates": "Images of which the line holds the same pixels more than once.",
    "near duplicates": "Images saved twice: as JPEG, resized, or with another gain.",
    "rejected": "Files that were not packed; the manifest says why.",
}


@dataclass(frozen=True)
class Finding:
    """All findings of one kind."""

    kind: str
    images: int
    """Number of images."""
    share: str
    """Share of the line's images, in per cent."""
    meaning: str


@dataclass(frozen=True)
class Section:
    """The quality of a line's data, as a page or a terminal shows it."""

    line: str
    inspected: bool
    """False if only the manifest was read."""
    images: int
    verdict: str
    findings: tuple[Finding, ...] = ()
    worst: tuple[Issue, ...] = ()
    """The first few images of every kind."""
    usual: tuple[str, ...] = ()
    """Findings so frequent that they are taken for the line's nature, a sentence each."""
    copies: tuple[str, ...] = ()
    """Groups of duplicates, a sentence each."""
    drifts: tuple[str, ...] = ()
    """Differences between splits, a sentence each."""
    rejects: tuple[tuple[str, str], ...] = ()
    """Path and reason of files that were not packed."""


def section(inspection: Inspection | Failure | None, manifest: Manifest) -> Section:
    """Return the data-quality section of a line.

    Args:
        inspection: The inspection, why it failed, or None if the line was never inspected.
        manifest: Of the line.
    """
    images = sum(manifest.counts.values())
    rejects = tuple((one.path, f"{one.reason}: {one.detail}") for one in manifest.rejects[:SHOWN])
    if not isinstance(inspection, Inspection):
        verdict = _why_not(inspection, manifest)
        return Section(manifest.line, False, images, verdict, _findings({}, manifest), rejects=rejects)
    return Section(
        line=manifest.line,
        inspected=True,
        images=images,
        verdict=_verdict(inspection, manifest),
        findings=_findings(inspection.counts, manifest),
        worst=tuple(_worst(inspection.issues)),
        usual=tuple(
            f"{trait.kind}: {trait.images} images ({trait.share:.0%}), so many that it is taken for this line's nature"
            f" (such as {', '.join(trait.examples[:2])}: {trait.detail})"
            for trait in inspection.traits
        ),
        copies=tuple(_copies(group) for group in inspection.groups[:SHOWN]),
        drifts=tuple(_drift(drift) for drift in inspection.drifted),
        rejects=rejects,
    )


def _why_not(failure: Failure | None, manifest: Manifest) -> str:
    if failure is None:
        return f"not inspected yet: raybench inspect STORE/lines/{manifest.line}"
    return (
        f"not inspected, attempt {failure.attempt} ended with {failure.error_type}: {failure.message}; the same run "
        "tries it again"
    )


def table(shown: Section) -> RenderableType:
    """Return a data-quality section as tables for a terminal."""
    parts: list[RenderableType] = [Text(f"{shown.line}: {shown.verdict}", style="bold")]
    if shown.findings:
        rows = [(one.kind, str(one.images), one.share, one.meaning) for one in shown.findings]
        parts.append(_grid(("finding", "images", "share", "what it means"), rows))
    if shown.worst:
        found = [(one.kind, one.image_id, one.split, f"{one.score:.2f}", one.detail) for one in shown.worst]
        parts.append(_grid(("worst of each kind", "image", "split", "score", "detail"), found))
    parts += [Text(text) for text in (*shown.usual, *shown.copies, *shown.drifts)]
    parts += [Text(f"rejected {path}: {why}", style="yellow") for path, why in shown.rejects]
    return Group(*parts)


def _grid(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    grid = Table(*headers, box=None, header_style="dim", pad_edge=False)
    for column in grid.columns:
        column.overflow = "fold"
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _findings(counts: Mapping[str, int], manifest: Manifest) -> tuple[Finding, ...]:
    """The kinds that were found, in the order of EXPLAINED."""
    images = sum(manifest.counts.values())
    found = {**counts, "rejected": len(manifest.rejects)}
    return tuple(
        Finding(kind, found[kind], f"{found[kind] / (images + found['rejected']):.1%}", meaning)
        for kind, meaning in EXPLAINED.items()
        if found.get(kind)
    )


def _verdict(inspection: Inspection, manifest: Manifest) -> str:
    bad = len({issue.image_id for issue in inspection.issues})
    texts = [f"{bad} of {inspection.images} images have something wrong with them"] if bad else []
    if inspection.groups:
        copies = sum(len(group.copies) for group in inspection.groups)
        texts.append(f"{copies} images are copies of each other, in {len(inspection.groups)} groups")
    if inspection.drifted:
        texts.append("splits differ in " + ", ".join(sorted({drift.name for drift in inspection.drifted})))
    if manifest.rejects:
        texts.append(f"{len(manifest.rejects)} files were not packed")
    return "; ".join(texts) or f"nothing is wrong with the {inspection.images} images"


def _worst(issues: Sequence[Issue]) -> Iterator[Issue]:
    """The first WORST of each kind. `issues` are sorted by kind, the worst first."""
    seen = Counter[str]()
    for issue in issues:
        seen[issue.kind] += 1
        if seen[issue.kind] <= WORST:
            yield issue


def _copies(group: Copies) -> str:
    names = ", ".join(f"{copy.image_id} ({copy.split})" for copy in group.copies[:NAMED])
    more = f" and {len(group.copies) - NAMED} more" if len(group.copies) > NAMED else ""
    apart = "the same pixels" if group.kind == "exact" else f"nearly the same, distance {group.distance:.2f}"
    return f"{apart}: {names}{more}"


def _drift(drift: Drift) -> str:
    images = "OK test images" if drift.split == "test" else f"{drift.split} images"
    return (
        f"{drift.name} of the {images} is {drift.median:.3g}, of the OK training images {drift.train_median:.3g} "
        f"(medians; KS distance {drift.effect:.2f}, corrected p {drift.p:.1g})"
    )
