"""A contact sheet: a few images of each split and label of a packed line, with their masks, on one page.

It shows at a glance whether images, labels and masks belong together, before anything is trained on them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, get_args

from raybench.data.line import Line, Sample
from raybench.data.manifest import Label, Split
from raybench.data.shards import read_rows
from raybench.report.gallery import image_uri, outline_path
from raybench.report.html import part, template

SHEET = "contact-sheet.html"
EACH = 8
"""Images of a split, label and type of defect."""
_SHARDS = 3  # of a split, that are opened for it
_MOST_KINDS = 20  # of a split
_MOST_FILES = 200
_LABELS: tuple[Label, ...] = ("ok", "ng", "unknown")

T = TypeVar("T")


@dataclass(frozen=True)
class SheetImage:
    """An image of the sheet."""

    image_id: str
    size: str
    """Width and height in pixels."""
    image: str
    """Data URI."""
    outline: str
    """Of its mask, see `gallery.outline_path`. Empty without a mask, and for one that marks nothing."""
    mask: str
    """What its mask marks, in words. Empty without a mask."""


@dataclass(frozen=True)
class SheetRow:
    """Images of one split, label and type of defect."""

    split: str
    label: str
    defect_type: str
    images: tuple[SheetImage, ...]


def write_contact_sheet(line: Line, folder: Path) -> Path:
    """Write the contact sheet of a line into a folder, and return its path.

    Of each split the first, the middle and the last shard are opened, so that the cost does not grow with the line.

    Raises:
        RejectedImage: An image cannot be decoded.
        IntegrityError: A shard is damaged.
        StoreError: The store cannot be read.
    """
    rows = [row for split in get_args(Split) for row in _rows(line, split)]
    rejects = Counter(reject.reason for reject in line.rejects).most_common()
    page = template("contact_sheet.html.j2").render(
        line=line.manifest,
        rows=rows,
        rejects=rejects,
        each=EACH,
        most=_MOST_FILES,
        style=part("base.css"),
        css=part("contact_sheet.css"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SHEET).write_text(page, encoding="utf-8")
    return folder / SHEET


def _rows(line: Line, split: Split) -> Iterator[SheetRow]:
    """Yield the rows of a split, one for each label and type of defect, the OK ones first."""
    shards = _spread(line.manifest.shards_of(split), _SHARDS)
    opened = replace(line, manifest=replace(line.manifest, shards=tuple(shards)))
    by_kind: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for shard in shards:
        for row in read_rows(line.store, shard, images=False, masks=False):
            by_kind[row.label, row.defect_type].append(row.image_id)
    kinds = sorted(by_kind, key=lambda kind: (_LABELS.index(kind[0]), kind[1]))[:_MOST_KINDS]
    chosen = {kind: _spread(by_kind[kind], EACH) for kind in kinds}
    wanted = {image_id for image_ids in chosen.values() for image_id in image_ids}
    drawn = {sample.image_id: _drawn(sample) for sample in opened.images(ids=wanted)} if wanted else {}
    for (label, defect_type), image_ids in chosen.items():
        yield SheetRow(split, label, defect_type, tuple(drawn[image_id] for image_id in image_ids))


def _drawn(sample: Sample) -> SheetImage:
    mask = ""
    if sample.mask is not None:
        share = float(sample.mask.mean())
        mask = "mask marks nothing" if not share else f"mask on {share:.1%}" if share >= 0.001 else "mask on <0.1%"
    return SheetImage(
        image_id=sample.image_id,
        size=f"{sample.width} × {sample.height}",
        image=image_uri(sample.pixels),
        outline="" if sample.mask is None else outline_path(sample.mask),
        mask=mask,
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
