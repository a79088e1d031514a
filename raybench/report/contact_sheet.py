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
from raybench.data.manifest import Label, ShardInfo, Split
from raybench.data.shards import read_rows
from raybench.metrics.roi import Roi
from raybench.report.gallery import image_uri, outline_path
from raybench.report.html import part, template

SHEET = "contact-sheet.html"
EACH = 8
"""Images of a split, label and type of defect."""
_SHARDS = 3  # of a kind, that its images are taken from
_MOST_KINDS = 40  # of a split, that are shown
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
    roi: str
    """How much of it is looked at, in words. Empty without a region of interest."""


@dataclass(frozen=True)
class SheetRow:
    """Images of one split, label and type of defect."""

    split: str
    label: str
    defect_type: str
    count: int
    """Number of images that the line has of them."""
    images: tuple[SheetImage, ...]
    """Those that are shown; none of the last kinds where there are many."""


def write_contact_sheet(line: Line, folder: Path) -> Path:
    """Write the contact sheet of a line into a folder, and return its path.

    Labels of all images are read, and pixels of those that are shown: of a kind, images in the first, the middle and
    the last of the shards that hold it.

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
    by_kind: defaultdict[tuple[str, str], dict[ShardInfo, list[str]]] = defaultdict(dict)
    for shard in line.manifest.shards_of(split):
        for row in read_rows(line.store, shard, images=False, masks=False):
            by_kind[row.label, row.defect_type].setdefault(shard, []).append(row.image_id)
    kinds = sorted(by_kind, key=lambda kind: (_LABELS.index(kind[0]), kind[1]))
    chosen, opened = {}, set[ShardInfo]()
    for kind in kinds[:_MOST_KINDS]:
        shards = _spread(list(by_kind[kind]), _SHARDS)
        chosen[kind] = _spread([image_id for shard in shards for image_id in by_kind[kind][shard]], EACH)
        opened |= set(shards)
    part_of_line = replace(line, manifest=replace(line.manifest, shards=tuple(opened)))
    wanted = {image_id for image_ids in chosen.values() for image_id in image_ids}
    drawn = {sample.image_id: _drawn(sample) for sample in part_of_line.images(ids=wanted)}
    for kind in kinds:
        images = tuple(drawn[image_id] for image_id in chosen.get(kind, ()))
        yield SheetRow(split, *kind, sum(map(len, by_kind[kind].values())), images)


def _drawn(sample: Sample) -> SheetImage:
    mask = ""
    if sample.mask is not None:
        share = float(sample.mask.mean())
        mask = "mask marks nothing" if not share else f"mask on {share:.1%}" if share >= 0.001 else "mask on <0.1%"
    return SheetImage(
        image_id=sample.image_id,
        size=f"{sample.width} × {sample.height}",
        image=image_uri(sample.pixels, None if sample.roi is None else Roi.of(sample.roi)),
        outline="" if sample.mask is None else outline_path(sample.mask),
        mask=mask,
        roi="" if sample.roi is None else f"{sample.roi.mean():.0%} looked at",
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
