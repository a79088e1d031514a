"""Is a line's data fit to train on? Inspected once, kept beside its manifest as `<line>/quality.json`.

It belongs to the line, not to a run: every run of every experiment on the same images reads the same inspection. It
names the manifest's digest and its own version; one that names others is as good as none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from raybench.data.inspection.drift import Drift, find_drifts
from raybench.data.inspection.duplicates import Group, find_groups
from raybench.data.inspection.outliers import Issue, Trait, find_outliers
from raybench.data.inspection.properties import Properties, join, measure_shard
from raybench.data.manifest import Manifest
from raybench.errors import ObjectMissing
from raybench.store import Store

VERSION = 1


@dataclass(frozen=True)
class Inspection:
    """What was found on a line. version: of the rules. line_digest: of the manifest. images: how many were looked at.
    counts: images by kind of issue, and those in groups of exact and of near duplicates. issues: worst first within
    their kind. traits: what is usual here, and would be a fault elsewhere. groups: images that are there more than
    once. drifts: every comparison of splits, drifted or not."""

    version: int
    line: str
    line_digest: str
    images: int
    counts: Mapping[str, int]
    issues: tuple[Issue, ...]
    traits: tuple[Trait, ...]
    groups: tuple[Group, ...]
    drifts: tuple[Drift, ...]

    @property
    def drifted(self) -> tuple[Drift, ...]:
        return tuple(drift for drift in self.drifts if drift.drifted)


def inspect(
    lines: Store, manifest: Manifest, threads: int = 1, progress: Callable[[int], None] = lambda images: None
) -> Inspection:
    """Decode the line once and judge it. progress: is told how many images more have been looked at.

    Raises IntegrityError, and the store's own errors.
    """
    parts = []
    for shard in manifest.shards:
        parts.append(measure_shard(lines, manifest, shard, threads))
        progress(shard.rows)
    return judge(manifest, parts)


def judge(manifest: Manifest, parts: Sequence[Properties]) -> Inspection:
    """parts: of `measure_shard`, one per shard, in the manifest's order; they may come from anywhere."""
    found = join(parts)
    readable = len(found.table) > 0
    outliers, traits = find_outliers(found.table) if readable else ([], [])
    groups = find_groups(found) if readable else ()
    broken = [Issue(one.image_id, one.split, "unreadable", 1.0, one.detail) for one in found.unreadable]
    issues = (*broken, *outliers, *_leaks(groups), *_two_labels(groups))
    counts = Counter[str](issue.kind for issue in issues)
    for group in groups:
        counts[f"{group.kind} duplicates"] += len(group.copies)
    return Inspection(
        version=VERSION,
        line=manifest.line,
        line_digest=manifest.digest,
        images=len(found.table) + len(found.unreadable),
        counts=dict(sorted(counts.items())),
        issues=issues,
        traits=tuple(traits),
        groups=groups,
        drifts=find_drifts(found.table) if readable else (),
    )


def bad_images(inspection: Inspection) -> Mapping[str, str]:
    """image_id → why nobody should trust a score of it, or annotate it before it is mended. Copies alone are none."""
    reasons: dict[str, str] = {}
    for issue in inspection.issues:
        text = f"{issue.kind}: {issue.detail}"
        reasons[issue.image_id] = f"{reasons[issue.image_id]}; {text}" if issue.image_id in reasons else text
    return reasons


def _leaks(groups: Sequence[Group]) -> Iterator[Issue]:
    """Test images that are trained on too: what they score says nothing."""
    for group in groups:
        trained = group.of("train")
        for copy in group.of("test") if trained else ():
            like = "has the same pixels as" if group.kind == "exact" else "is nearly the same image as"
            detail = f"{like} {trained[0].image_id}, which is trained on"
            yield Issue(copy.image_id, copy.split, "leak", round(1 - group.distance, 4), detail)


def _two_labels(groups: Sequence[Group]) -> Iterator[Issue]:
    """The same pixels, OK here and NG there. Near duplicates may differ by just the defect."""
    for group in groups:
        if group.kind == "exact" and {"ok", "ng"} <= set(group.labels):
            for copy in group.copies:
                other = next(one for one in group.copies if one.label not in (copy.label, "unknown"))
                detail = f"labelled {copy.label}, and {other.image_id}, with the same pixels, {other.label}"
                yield Issue(copy.image_id, copy.split, "two labels", 1.0, detail)


_ADAPTER = TypeAdapter(Inspection)


def quality_key(line: str) -> str:
    return f"{line}/quality.json"


def inspection_json(inspection: Inspection) -> bytes:
    return _ADAPTER.dump_json(inspection, indent=1) + b"\n"


def write_inspection(lines: Store, inspection: Inspection) -> None:
    lines.put(quality_key(inspection.line), inspection_json(inspection))


def read_inspection(lines: Store, manifest: Manifest) -> Inspection | None:
    """The one that stands for these very images and rules; None where there is none."""
    try:
        found = _ADAPTER.validate_json(lines.get(quality_key(manifest.line)))
    except (ObjectMissing, ValidationError):
        return None
    same = (found.version, found.line, found.line_digest) == (VERSION, manifest.line, manifest.digest)
    return found if same else None
