"""Pack an image folder into Parquet shards, and append images to a packed line."""

from __future__ import annotations

import getpass
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from raybench.data import layouts
from raybench.data.card import card_key, write_card
from raybench.data.corrections import read_corrections
from raybench.data.labels import commit, kept_corrections, with_corrections
from raybench.data.manifest import (
    Change,
    Manifest,
    PackFinding,
    Reject,
    RoiSummary,
    manifest_key,
    read_manifest,
    write_manifest,
)
from raybench.data.packing import OUTSIDE, Packing, PackOptions, Progress
from raybench.data.roi import is_outside, shared_roi
from raybench.data.roi_files import RoiFile
from raybench.data.shards import read_rows
from raybench.errors import IntegrityError, LineError, ObjectMissing
from raybench.store import Store

__all__ = ["LINE_NAME", "PackOptions", "Progress", "add", "pack"]

Entry = TypeVar("Entry", Reject, PackFinding)

LINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def pack(
    source: Store,
    lines: Store,
    line: str,
    options: PackOptions | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Pack the images of `source` as the line `line` of the store `lines`.

    Files that cannot be used are listed in the manifest's `rejects`; the rest is packed. The same images give the same
    shards, byte for byte. Shards of an earlier packing of the line are removed.

    Args:
        source: The image folder.
        lines: The store of lines.
        line: Name of the line.
        options: How to pack. None takes the defaults.
        progress: Called after each packed image.

    Raises:
        LineError: The name is not allowed, no layout fits, no image or region of interest can be used, or labels have
            come back to the line and its manifest cannot be read.
        UnknownName: There is no layout of the name in `options`.
    """
    if not LINE_NAME.fullmatch(line):
        raise LineError(f"{line!r} is not a line name: letters, digits, `.`, `_` and `-`, at most 100")
    unlabelled = _unlabelled_files(lines, _packed_before(lines, line))  # raises before anything is overwritten
    options = options or PackOptions()
    listing = layouts.list_images(source, options.layout, line)
    packing = Packing(source, lines, line, options, listing, progress)
    packing.roi = _roi_of_all(source, listing, options)
    if options.roi and listing.roi_key:
        packing.rejects.append(Reject(listing.roi_key, "roi_unused", f"the region of interest is {options.roi.name}"))
    shards = packing.write({})
    if not shards:
        raise LineError(f"{source.uri()}: no image could be packed as {line!r}{_reject_counts(packing.rejects)}")
    packed, before = packing.manifest(shards), _packed_before(lines, line)
    findings = [*packed.findings, *_labelled_by_moving(lines, packed, unlabelled), *_roi_dropped(packed, before)]
    packed = replace(packed, findings=_sorted(findings))
    manifest = _with_labels(lines, packed, before)
    while before != (before := _packed_before(lines, line)):  # labels came back meanwhile
        manifest = _with_labels(lines, packed, before)
    write_card(lines, manifest)
    write_manifest(lines, manifest)
    if before is None or before.digest != manifest.digest:  # or the inspection of the same images would be lost
        _drop_old_shards(lines, manifest)
    return manifest


def add(
    source: Store,
    lines: Store,
    line: str,
    options: PackOptions | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Append the images of `source` that a packed line does not hold yet, in shards of their own.

    What the line holds stays as it is, so that nothing is scored twice: its shards, its levels and the size that its
    networks see. An image of the folder that differs from the packed one, or is labelled otherwise, is told.

    Args:
        source: The image folder.
        lines: The store of lines.
        line: Name of the packed line.
        options: How to pack. None takes the defaults.
        progress: Called after each packed image.

    Returns:
        The new manifest; without a new image the old one, with what was found, and it is not written.

    Raises:
        LineError: The line is not packed, no layout fits, or the folder has another region of interest than the line.
        LabelError: The line was changed at the same time.
    """
    before = read_manifest(lines, line)
    options = replace(options or PackOptions(), levels=(before.black_level, before.white_level))
    try:
        listing = layouts.list_images(source, options.layout, line)
    except LineError:  # of test images alone, a folder does not show its layout
        if options.layout != layouts.AUTO:
            raise
        listing = layouts.list_images(source, before.layout, line)
    packing = Packing(source, lines, line, options, listing, progress)
    packing.roi = _roi_to_add(lines, before, _roi_of_all(source, listing, options))
    held = {row.image_id: row for shard in before.shards for row in read_rows(lines, shard, images=False)}
    corrected = {image_id for shard in before.shards for image_id in read_corrections(lines, shard)}
    packing.held = {row.sha256: row.image_id for row in held.values()}
    new_items = tuple(item for item in listing.items if item.image_id not in held)
    packing.listing = replace(listing, items=new_items)
    for item in listing.items:
        if row := held.get(item.image_id):
            packing.compare(item, row, is_corrected=row.image_id in corrected)
    for row in held.values():
        packing.note_group(row)
    shards = packing.write(Counter(shard.split for shard in before.shards))
    tried = {key for item in new_items for key in (item.image_id, *item.mask_keys, *item.roi_keys)}
    told = replace(
        before,
        rejects=_sorted({each for each in before.rejects if each.path not in tried} | set(packing.rejects)),
        findings=_sorted({*before.findings, *packing.findings}),
    )
    if not shards:
        return told
    shards = [replace(shard, added=len(before.changes) + 1) for shard in shards]
    manifest = _grown(told, packing.manifest(shards), source.uri())
    commit(lines, before, manifest)
    return manifest


def _grown(before: Manifest, new: Manifest, source: str) -> Manifest:
    """Return the manifest of a line with new shards, given that of the shards alone."""
    what = f"{sum(new.counts.values())} images added from {source}"
    change = Change(datetime.now(UTC).isoformat(timespec="seconds"), getpass.getuser(), what, before.digest)
    return replace(
        before,
        counts=dict(sorted((Counter(before.counts) + Counter(new.counts)).items())),
        masks=before.masks + new.masks,
        min_height=min(before.min_height, new.min_height),
        min_width=min(before.min_width, new.min_width),
        max_height=max(before.max_height, new.max_height),
        max_width=max(before.max_width, new.max_width),
        shards=tuple(sorted([*before.shards, *new.shards], key=lambda shard: shard.key)),
        attributes=tuple(sorted({*before.attributes, *new.attributes})),
        roi=_both(before.roi, new.roi),
        findings=_sorted({*before.findings, *new.findings}),
        changes=(*before.changes, change),
    )


def _both(before: RoiSummary | None, new: RoiSummary | None) -> RoiSummary | None:
    """Return the regions of interest of a line and of the images that are added to it."""
    if before is None or new is None:
        found = before or new
        return found and replace(found, shared="")
    images = before.images + new.images
    kept = (before.images * before.kept + new.images * new.kept) / images
    return RoiSummary(images, kept, before.shared if before.shared == new.shared else "")


def _roi_of_all(source: Store, listing: layouts.FolderListing, options: PackOptions) -> RoiFile | None:
    """Return the region of interest of all images. Raises LineError if it cannot be one."""
    roi = options.roi
    if roi is None and listing.roi_key:
        roi = RoiFile(listing.roi_key, source.get(listing.roi_key))
    if roi:
        roi.check()
    return roi


def _roi_to_add(lines: Store, line: Manifest, new: RoiFile | None) -> RoiFile | None:
    """Return the region of interest of images that are added to a line: the one that all of its images have.

    Raises LineError if the folder has another one: the region of a line would not be one any more.
    """
    held = shared_roi(lines, line)
    if new and line.roi is None:
        raise LineError(f"{line.line} has no region of interest, and {new.name} is one; pack the line again")
    if new and held and not new.is_of(held):
        raise LineError(f"{new.name} is another region of interest than that of {line.line}; pack the line again")
    return RoiFile("that of the line", held, is_upright=True) if held and not new else new


def _roi_dropped(packed: Manifest, before: Manifest | None) -> Iterator[PackFinding]:
    if before and before.roi and packed.roi is None:
        detail = "the line had regions of interest before; all of each image is looked at now. `--roi` names one again"
        yield PackFinding(".", "region of interest dropped", detail)


def _packed_before(lines: Store, line: str) -> Manifest | None:
    """Return the manifest of a line; None if it is not packed yet, or by another version.

    Raises LineError for a line that labels have come back to, as they would be lost.
    """
    try:
        return read_manifest(lines, line)
    except (LineError, IntegrityError) as error:
        if next(iter(lines.list(f"{line}/labels/")), None):
            raise LineError(
                f"labels have come back to this line, and they would be lost: {error}; put the last manifest of "
                f"{lines.uri(f'{line}/history')} in its place, or delete {lines.uri(f'{line}/labels')}"
            ) from error
        return None


def _with_labels(lines: Store, manifest: Manifest, before: Manifest | None) -> Manifest:
    """Take over the labels that have come back to the line since it was packed before, and say which cannot hold."""
    if before is None:
        return manifest
    changes, lost = kept_corrections(lines, before, manifest)
    findings = [
        PackFinding(each.image_id, "label dropped", f"{each.by} labelled it {each.label} on {each.at}, and it is gone")
        for each in lost
    ]
    findings += [
        PackFinding(each.row.image_id, "defect outside the region of interest", OUTSIDE)
        for each in changes
        if each.correction.label == "ng" and each.correction.mask and is_outside(each.row, each.correction.mask)
    ]
    again = with_corrections(lines, manifest, changes)
    return replace(
        again,
        changes=before.changes,
        findings=_sorted([*manifest.findings, *findings]),
    )


def _unlabelled_files(lines: Store, manifest: Manifest | None) -> set[str]:
    """Return the digests of the files that a line holds as unlabelled."""
    shards = manifest.shards_of("unlabelled") if manifest else ()
    try:
        return {row.sha256 for shard in shards for row in read_rows(lines, shard, images=False, masks=False)}
    except (IntegrityError, ObjectMissing):  # a packing before this one was stopped while it wrote shards anew
        return set()


def _labelled_by_moving(lines: Store, manifest: Manifest, unlabelled: Set[str]) -> Iterator[PackFinding]:
    """Yield test images that the line held as unlabelled before: nothing says any more that somebody chose them."""
    for shard in manifest.shards_of("test") if unlabelled else ():
        for row in read_rows(lines, shard, images=False, masks=False):
            if row.sha256 in unlabelled:
                yield PackFinding(
                    row.image_id,
                    "labelled by moving it",
                    "the line held it as unlabelled before; it counts in all numbers now. If it was chosen for its "
                    "looks, put it back and give it the label with `raybench labels import`",
                )


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.path, entry.detail)))


def _reject_counts(rejects: Iterable[Reject]) -> str:
    reasons = Counter(reject.reason for reject in rejects)
    return "; rejected: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()) if reasons else ""


def _drop_old_shards(lines: Store, manifest: Manifest) -> None:
    """Remove what rests on an earlier packing, but for labels that people gave and the history that names them."""
    current = {manifest_key(manifest.line), card_key(manifest.line), *(shard.key for shard in manifest.shards)}
    kept = (f"{manifest.line}/labels/", f"{manifest.line}/history/")
    for item in list(lines.list(f"{manifest.line}/")):
        if item.key not in current and not item.key.startswith(kept):
            lines.delete(item.key)
