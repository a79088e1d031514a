"""Inspect whether the data of a line is fit to train on. The result is `<line>/quality.json`, beside the manifest.

It belongs to the line, not to a run: all runs on the same images read the same inspection. It records the digest of the
manifest and the version of the rules; an inspection with others is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from raybench.data.checks import LARGE_MASK, large_mask
from raybench.data.inspection.drift import Drift, find_drifts
from raybench.data.inspection.duplicates import Group, find_groups
from raybench.data.inspection.measured import measured_shard
from raybench.data.inspection.outliers import Issue, Trait, find_outliers
from raybench.data.inspection.properties import Properties, join
from raybench.data.manifest import Manifest
from raybench.errors import ObjectMissing
from raybench.store import Store

VERSION = 2


@dataclass(frozen=True)
class Inspection:
    """Issues, traits, duplicates and drift of one line."""

    version: int
    """`VERSION` of the rules."""
    line: str
    line_digest: str
    """`Manifest.digest` of the inspected images."""
    images: int
    """Number of images inspected, unreadable ones included."""
    counts: Mapping[str, int]
    """Number of images by kind of issue, and of `exact duplicates` and `near duplicates`. Zeros are absent."""
    issues: tuple[Issue, ...]
    """Grouped by kind, worst first."""
    traits: tuple[Trait, ...]
    groups: tuple[Group, ...]
    """Duplicates."""
    drifts: tuple[Drift, ...]
    """All comparisons of splits, drifted or not."""

    @property
    def drifted(self) -> tuple[Drift, ...]:
        return tuple(drift for drift in self.drifts if drift.drifted)


def inspect(
    lines: Store,
    manifest: Manifest,
    threads: int = 1,
    progress: Callable[[int], None] = lambda images: None,
    kept: Store | None = None,
) -> Inspection:
    """Inspect a line. Each image is decoded once: what is measured is kept.

    Args:
        lines: The store of lines.
        manifest: Manifest of the line.
        threads: Number of threads that decode.
        progress: Called with the number of images of each shard, once it is measured.
        kept: Store where measurements are kept, laid out like a store of lines. None: beside the line.

    Raises:
        IntegrityError: A shard is damaged.
        StoreError: The store cannot be read.
    """
    parts = []
    for shard in manifest.shards:
        parts.append(measured_shard(lines, manifest, shard, kept or lines, threads))
        progress(shard.rows)
    return judge(manifest, parts)


def judge(manifest: Manifest, parts: Sequence[Properties]) -> Inspection:
    """Inspect a line whose images are measured.

    Args:
        manifest: Manifest of the line.
        parts: Results of `measured_shard`, in the order of the manifest's shards.
    """
    properties = join(parts)
    readable = len(properties.table) > 0
    outliers, traits = find_outliers(properties.table) if readable else ([], [])
    groups = find_groups(properties) if readable else ()
    masks = _mask_issues(properties.table) if readable else ()
    unreadable = [
        Issue(image.image_id, image.split, "unreadable", 1.0, image.detail) for image in properties.unreadable
    ]
    issues = (
        *unreadable,
        *outliers,
        *_leaks(groups),
        *_two_labels(groups),
        *sorted(masks, key=lambda issue: issue.kind),
    )
    counts = Counter[str](issue.kind for issue in issues)
    for group in groups:
        counts[f"{group.kind} duplicates"] += len(group.copies)
    return Inspection(
        version=VERSION,
        line=manifest.line,
        line_digest=manifest.digest,
        images=len(properties.table) + len(properties.unreadable),
        counts=dict(sorted(counts.items())),
        issues=issues,
        traits=tuple(traits),
        groups=groups,
        drifts=find_drifts(properties.table) if readable else (),
    )


def bad_images(inspection: Inspection) -> Mapping[str, str]:
    """Map the ID of each image with an issue to its reasons.

    Scores of these images are not to be trusted, and they should be fixed before they are annotated. A duplicate alone
    is no issue.
    """
    reasons: dict[str, str] = {}
    for issue in inspection.issues:
        text = f"{issue.kind}: {issue.detail}"
        reasons[issue.image_id] = f"{reasons[issue.image_id]}; {text}" if issue.image_id in reasons else text
    return reasons


def _leaks(groups: Sequence[Group]) -> Iterator[Issue]:
    """Yield test images that are training images too, so that their scores are worthless."""
    for group in groups:
        train = group.of("train")
        for copy in group.of("test") if train else ():
            relation = "has the same pixels as" if group.kind == "exact" else "is nearly the same image as"
            detail = f"{relation} {train[0].image_id}, which is trained on"
            yield Issue(copy.image_id, copy.split, "leak", round(1 - group.distance, 4), detail)


def _two_labels(groups: Sequence[Group]) -> Iterator[Issue]:
    """Yield exact copies of which some are OK and some NG. Near duplicates may differ by the defect."""
    for group in groups:
        if group.kind == "exact" and {"ok", "ng"} <= set(group.labels):
            for copy in group.copies:
                other = next(other for other in group.copies if other.label not in (copy.label, "unknown"))
                detail = f"labelled {copy.label}, and {other.image_id}, with the same pixels, {other.label}"
                yield Issue(copy.image_id, copy.split, "two labels", 1.0, detail)


def _mask_issues(table: pd.DataFrame) -> Iterator[Issue]:
    """Yield labelled images whose masks are wrong or look so. Packing refuses most, but earlier versions did not."""
    for row in table.sort_values("mask_share", ascending=False).to_dict("records"):
        image_id, split, share = row["image_id"], row["split"], row["mask_share"]
        if row["label"] == "ok" and share > 0:
            detail = f"labelled OK, and its mask marks {share:.1%} of it as defective"
            yield Issue(image_id, split, "mask on an OK image", round(share, 4), detail)
        elif row["label"] == "ng" and share > LARGE_MASK:
            yield Issue(image_id, split, "large mask", round(share, 4), large_mask(share))
        elif row["label"] == "ng" and share == 0:
            yield Issue(image_id, split, "empty mask", 1.0, "labelled NG, and its mask marks nothing")


_ADAPTER = TypeAdapter(Inspection)


def inspection_key(line: str) -> str:
    return f"{line}/quality.json"


def inspection_json(inspection: Inspection) -> bytes:
    return _ADAPTER.dump_json(inspection, indent=1) + b"\n"


def write_inspection(lines: Store, inspection: Inspection) -> None:
    lines.put(inspection_key(inspection.line), inspection_json(inspection))


def read_inspection(lines: Store, manifest: Manifest) -> Inspection | None:
    """Read the inspection of a line. Returns None unless it is of these images, by these rules."""
    try:
        inspection = _ADAPTER.validate_json(lines.get(inspection_key(manifest.line)))
    except (ObjectMissing, ValidationError):
        return None
    identity = inspection.version, inspection.line, inspection.line_digest
    return inspection if identity == (VERSION, manifest.line, manifest.digest) else None
