"""Correct labels and masks of a packed line: tables beside its shards, a new manifest, and a history of the old ones.

Images are never written again, and no label is lost: `<line>/history/<number>-<digest>.json` is the manifest before
each change, and names the tables of labels that held until then. Beside it, `…-next.json` is the manifest after the
change. It is put-if-absent, so that of two programs that change a line at once, one is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raybench.data.card import write_card
from raybench.data.corrections import Correction, put_corrections, read_corrections
from raybench.data.decode import decode_mask
from raybench.data.manifest import (
    NEXT,
    STATE_DIGITS,
    Change,
    Manifest,
    ShardInfo,
    encode_manifest,
    read_manifest,
    write_manifest,
)
from raybench.data.roi import is_outside
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import LabelError, RejectedImage
from raybench.metrics.sampling import permanent_numbers, reach
from raybench.store import Store


@dataclass(frozen=True)
class LabelChange:
    """The label and mask of an image before and after a correction."""

    row: ImageRow
    """The image as it is now, without its pixels."""
    correction: Correction
    """The label and mask that it gets."""
    sets_aside: bool = False
    """Whether a person leaves the image out for the first time. One that nobody has labelled has no other label then,
    and is not to be labelled any more."""
    representative: int = 0
    """1 if a person says for the first time that nobody chose the image, -1 if that is taken back, else 0."""

    @property
    def relabels(self) -> bool:
        """Whether the label changes."""
        return self.row.label != self.correction.label

    @property
    def is_change(self) -> bool:
        """Whether anything but who said it changes."""
        old, new = self.row, self.correction
        if self.sets_aside or self.representative or self.relabels or old.defect_type != new.defect_type:
            return True
        return not _same_mask(old, old.mask, new.mask)


def changes_of(lines: Store, manifest: Manifest, corrections: Iterable[Correction]) -> list[LabelChange]:
    """Compare corrections with a line; return those that change something, in the order of the line.

    Raises:
        LabelError: Some corrections cannot be right: an image is not in the line or was another file, a mask does not
            fit, or contradicts its label. The message names them all.
        StoreError: The store fails.
    """
    wanted, problems = _by_id(corrections)
    changes = []
    for shard in manifest.shards:
        earlier = read_corrections(lines, shard)
        for row in read_rows(lines, shard, images=False, only=wanted):
            change = _change(row, wanted.pop(row.image_id), earlier.get(row.image_id))
            if fault := _fault(row, change.correction):
                problems.append(fault)
            elif change.is_change:
                changes.append(change)
    problems += [f"{image_id}: no such image in the line" for image_id in wanted]
    if problems:
        raise LabelError(manifest.line, problems)
    return changes


def correct_labels(lines: Store, manifest: Manifest, corrections: Iterable[Correction], change: Change) -> Manifest:
    """Give images of a line other labels and masks.

    Args:
        lines: The store of lines.
        manifest: Manifest of the line.
        corrections: The labels. Those that change nothing are left out.
        change: The entry in the manifest's `changes`.

    Returns:
        The new manifest, which is written; the old one if nothing changes.

    Raises:
        LabelError: Some corrections cannot be right, see `changes_of`, or the line was changed at the same time.
        StoreError: The store fails.
    """
    changes = changes_of(lines, manifest, corrections)
    if not changes:
        return manifest
    corrected = replace(with_corrections(lines, manifest, changes), changes=(*manifest.changes, change))
    commit(lines, manifest, corrected)
    return corrected


def with_corrections(lines: Store, manifest: Manifest, changes: Sequence[LabelChange]) -> Manifest:
    """Write the tables of labels of some changes, and return a manifest that names them, which is not written."""
    of_split: defaultdict[str, dict[str, Correction]] = defaultdict(dict)
    counts, masks = Counter(manifest.counts), manifest.masks
    for each in changes:
        row, correction = each.row, each.correction
        of_split[row.split][row.image_id] = correction
        counts[f"{row.split}/{row.label}"] -= 1
        counts[f"{row.split}/{correction.label}"] += 1
        masks += (correction.mask is not None) - (row.mask is not None)
    shards = [_with_table(lines, shard, of_split[shard.split]) for shard in manifest.shards]
    counted = {name: count for name, count in sorted(counts.items()) if count}
    changed = replace(manifest, shards=tuple(shards), counts=counted, masks=masks)
    return replace(changed, sampled=_samples(lines, changed))


def _samples(lines: Store, manifest: Manifest) -> dict[str, float]:
    """Return how far the sample of each pool of unlabelled images reaches; pools without a sample are left out.

    Images that nobody chose count in any case, and are in no pool.
    """
    pools: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    if not any(shard.labels for shard in manifest.shards_of("unlabelled")):
        return {}
    for shard in manifest.shards_of("unlabelled"):
        corrections = read_corrections(lines, shard)
        for row in read_rows(lines, shard, images=False, masks=False):
            correction = corrections.get(row.image_id)
            if not (correction and correction.representative):
                pools[shard.pool][row.image_id] = correction is not None
    samples = {
        pool: reach(permanent_numbers(is_seen), np.array(list(is_seen.values()), bool))
        for pool, is_seen in pools.items()
        if any(is_seen.values())
    }
    return {pool: found for pool, found in samples.items() if found}


def kept_corrections(lines: Store, old: Manifest, new: Manifest) -> tuple[list[LabelChange], list[Correction]]:
    """Return the corrections of a line that hold after it is packed again, and those that are lost.

    They hold for images that are the same files. Corrections that the new packing agrees with are in neither list.
    """
    lost = {each.image_id: each for shard in old.shards for each in read_corrections(lines, shard).values()}
    if not lost:
        return [], []
    rows = [row for shard in new.shards for row in read_rows(lines, shard, images=False, only=lost)]
    same = [row for row in rows if row.sha256 == lost[row.image_id].sha256]
    found = [(row, lost.pop(row.image_id)) for row in same]
    changes = [_change(row, correction, None) for row, correction in found]
    return [change for change in changes if change.is_change], list(lost.values())


def set_aside(lines: Store, shards: Iterable[ShardInfo]) -> set[str]:
    """Return the IDs of images that a person has left out, such as bad pictures: nobody is to be asked again."""
    corrections = (each for shard in shards for each in read_corrections(lines, shard).values())
    return {each.image_id for each in corrections if each.label == "unknown"}


def _by_id(corrections: Iterable[Correction]) -> tuple[dict[str, Correction], list[str]]:
    by_id: dict[str, Correction] = {}
    problems = []
    for each in corrections:
        if each.image_id in by_id:
            problems.append(f"{each.image_id}: labelled twice")
        by_id[each.image_id] = each
    return by_id, problems


def _change(row: ImageRow, new: Correction, old: Correction | None) -> LabelChange:
    """Compare a correction with an image and what it was corrected to before."""
    sets_aside = new.label == "unknown" and not (old and old.label == "unknown")
    was_representative = old is not None and old.representative
    return LabelChange(row, new, sets_aside, new.representative - was_representative)


def _fault(row: ImageRow, correction: Correction) -> str:
    """Describe why a correction cannot be right; empty if it can."""
    name, label = row.image_id, correction.label
    if correction.sha256 != row.sha256:
        return f"{name}: the labelled image is another file than the packed one"
    if correction.mask is None:
        return ""
    try:
        marked = int(decode_mask(correction.mask, row.height, row.width).sum())
    except RejectedImage as error:
        return f"{name}: its mask {error.detail}"
    if label == "ng" and not marked:
        return f"{name}: labelled NG, and its mask marks nothing; leave the mask out if the defect is not outlined"
    if label != "ng" and marked:
        return f"{name}: labelled {label.upper()}, and its mask marks {marked} pixels"
    if is_outside(row, correction.mask):
        return f"{name}: labelled NG, and its mask lies outside its region of interest; leave out the mask or the label"
    return ""


def _same_mask(row: ImageRow, old: bytes | None, new: bytes | None) -> bool:
    if old is None or new is None:
        return old is new
    return old == new or np.array_equal(
        decode_mask(old, row.height, row.width), decode_mask(new, row.height, row.width)
    )


def _with_table(lines: Store, shard: ShardInfo, new: Mapping[str, Correction]) -> ShardInfo:
    """Write the shard's table with new corrections; those of images that it does not hold are left out."""
    held = {row.image_id for row in read_rows(lines, shard, images=False, only=new)} if new else set()
    if not held:
        return shard
    table = {**read_corrections(lines, shard), **{image_id: new[image_id] for image_id in held}}
    return replace(shard, labels=put_corrections(lines, shard, list(table.values())))


def commit(lines: Store, before: Manifest, after: Manifest) -> None:
    """Make `after`, which has one change more, the manifest of a line, and keep `before` in its history.

    Raises:
        LabelError: Another program has changed the line since `before` was read.
        StoreError: The store fails.
    """
    key, data = _history_key(before), encode_manifest(after)
    mine = False
    if read_manifest(lines, before.line) == before:
        lines.put_if_absent(f"{key}.json", encode_manifest(before))
        # The store may have lost its answer to a first attempt, so the bytes decide.
        mine = lines.put_if_absent(f"{key}{NEXT}", data) or lines.get(f"{key}{NEXT}") == data
        _publish(lines, before)
    if not mine:
        raise LabelError(before.line, ["the line was changed at the same time; give the same command again"])


def _publish(lines: Store, manifest: Manifest) -> None:
    """Write the newest manifest that follows this one, also if the program that committed it has stopped before.

    Whoever writes a manifest looks for a newer one afterwards, so that the newest is written last.
    """
    while following := _next(lines, manifest):
        while following:
            manifest, following = following, _next(lines, following)
        write_card(lines, manifest)
        write_manifest(lines, manifest)


def _next(lines: Store, manifest: Manifest) -> Manifest | None:
    key = f"{_history_key(manifest)}{NEXT}"
    return read_manifest(lines, manifest.line, key) if lines.exists(key) else None


def _history_key(manifest: Manifest) -> str:
    return f"{manifest.line}/history/{len(manifest.changes):05}-{manifest.digest[:STATE_DIGITS]}"
