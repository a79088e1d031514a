"""Turn the images of a folder into shards, as a stream: memory depends on the size of a shard, not of the line."""

from __future__ import annotations

import hashlib
import itertools
import os
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from raybench.data import layouts
from raybench.data.checks import LARGE_MASK, FittedMask, ImageFacts, check_image, fit_mask, large_mask
from raybench.data.decode import encode_mask
from raybench.data.layouts import FolderListing, SourceImage
from raybench.data.manifest import SCHEMA_VERSION, Manifest, PackFinding, Reject, RoiSummary, ShardInfo
from raybench.data.roi import roi_of
from raybench.data.roi_files import RoiFile, fit_roi
from raybench.data.shards import ROW_GROUP_MB, ImageRow, describe, write_shard
from raybench.errors import ObjectMissing, RejectedImage
from raybench.metrics.masks import Mask
from raybench.metrics.roi import Roi
from raybench.store import Store

REMOTE_READERS = 16
EIGHT_BITS = 255
NARROW = 8  # a band of 16-bit values is narrow if it takes less than an eighth of the range up to white
FAINT_SHARE = 0.5  # of the mask's pixels
OUTSIDE = "its whole mask lies outside its region of interest, and it is labelled NG; correct one of them"


@dataclass(frozen=True)
class PackOptions:
    """How to pack a folder."""

    layout: str = layouts.AUTO
    """Name of a layout; see `layouts`. `auto` detects it."""
    shard_mb: int = 64
    """A shard is closed once its images and masks reach this size in MB, or `shard_rows` images."""
    shard_rows: int = 1024
    row_group_mb: int = ROW_GROUP_MB
    """Most MB of images and masks in a row group, the unit in which shards are read."""
    readers: int | None = None
    """Threads that read and check images. None chooses cores + 1 for a local folder, where checks limit the speed, and
    `REMOTE_READERS` otherwise."""
    levels: tuple[int, int] | None = None
    """Black and white level of the line that the images are compared with. None derives them from the images; see
    `Manifest`."""
    roi: RoiFile | None = None
    """The region of interest of all images that have none of their own. None takes the one that the layout names."""


@dataclass(frozen=True)
class Progress:
    """How far packing has come."""

    done: int
    """Images packed."""
    total: int
    """Images that the layout lists, rejected ones included."""
    bytes_done: int
    """Bytes of the packed images and masks."""
    rejected: int
    """Files rejected."""


@dataclass(frozen=True)
class _Loaded:
    """An image that was read and checked."""

    row: ImageRow
    facts: ImageFacts
    rejects: tuple[Reject, ...]
    """Its mask files, if they cannot be used."""
    findings: tuple[PackFinding, ...]
    roi: Roi | None
    """Its region of interest."""


def _mask_reason(reason: str) -> str:
    return reason if reason.startswith("mask_") else f"mask_{reason}"


def _union(masks: Sequence[FittedMask]) -> FittedMask:
    mask = np.logical_or.reduce([part.mask for part in masks])
    return FittedMask(encode_mask(mask), mask, sum(part.faint for part in masks))


def _folder_of(keys: Sequence[str]) -> str:
    return keys[0].rpartition("/")[0]


def _contradiction(item: SourceImage, mask: FittedMask) -> tuple[str, str] | None:
    """Return a reason and a sentence if label and mask cannot both be right. The label counts then."""
    pixels = int(mask.mask.sum())
    if item.label == "ok" and pixels:
        detail = f"marks {pixels} pixels as defective, and {item.image_id} is labelled OK; correct one of them"
        return "mask_on_ok", detail
    if item.label == "ng" and not pixels:
        return "mask_empty", f"marks nothing, and {item.image_id} is labelled NG; its defect is taken as not outlined"
    return None


def _mask_findings(item: SourceImage, mask: FittedMask) -> Iterator[PackFinding]:
    share = float(mask.mask.mean())
    if share > LARGE_MASK:
        yield PackFinding(item.image_id, "large mask", large_mask(share))
    if mask.faint > FAINT_SHARE * mask.mask.sum():
        detail = f"{mask.faint} pixels of its mask are above 0 but at most half of its highest value; taken as good"
        yield PackFinding(item.image_id, "faint mask", detail)


def _outside_findings(item: SourceImage, mask: FittedMask, roi: Roi) -> Iterator[PackFinding]:
    """Tell of outlined defects that lie outside the region of interest, where nobody looks."""
    whole = Mask.of(mask.mask)
    seen = np.unique(whole.regions[roi.inside.ravel()[whole.pixels]])
    total, hidden = len(whole.areas), len(whole.areas) - len(seen)
    if hidden == total:
        yield PackFinding(item.image_id, "defect outside the region of interest", OUTSIDE)
    elif hidden:
        detail = f"{hidden} of its {total} outlined defects lie outside its region of interest; they do not count"
        yield PackFinding(item.image_id, "defect outside the region of interest", detail)


def _leak(group: str, splits: Mapping[str, Sequence[str]]) -> PackFinding:
    """Describe a group with images in train and test: a detector is tested on a part that it has seen."""
    train, test = splits["train"], splits["test"]
    detail = (
        f"the group {group} has {len(train)} images in train and {len(test)} in test, such as {train[0]}; "
        "put the whole group into one split"
    )
    return PackFinding(test[0], "group in train and test", detail)


@dataclass
class Packing:
    """One line while it is packed, with the statistics of the images so far."""

    source: Store
    lines: Store
    line: str
    options: PackOptions
    listing: FolderListing
    progress: Callable[[Progress], None]
    rejects: list[Reject] = field(default_factory=list)
    findings: list[PackFinding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[str, int, int]] = field(default_factory=list)
    """Split, height and width of each image."""
    masks: int = 0
    bands: list[tuple[str, str, tuple[int, int]]] = field(default_factory=list)
    """ID, split and `ImageFacts.band` of each 16-bit image."""
    attributes: set[str] = field(default_factory=set)
    """Names of further columns of the table."""
    held: Mapping[str, str] = field(default_factory=dict)
    """IDs of images that the line holds already, by the digests of their files."""
    groups: defaultdict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(dict))
    """IDs of the images of each group, by split."""
    roi: RoiFile | None = None
    """The region of interest of all images that have none of their own."""
    regions: list[tuple[str, float]] = field(default_factory=list)
    """Digest of the region of each image that has one, and the share of the image that it keeps."""
    looked_at_whole: list[str] = field(default_factory=list)
    """IDs of the images without a region."""

    def write(self, first: Mapping[str, int]) -> list[ShardInfo]:
        """Write all shards. One is uploaded while the next is read.

        Args:
            first: Numbers to begin with by split. Shards that are stored are then kept, and empty replaces them.
        """
        self.rejects += self.listing.rejects
        self.findings += self.listing.findings
        shards: list[ShardInfo] = []
        with ThreadPoolExecutor(1) as uploader:
            upload: Future[ShardInfo] | None = None
            for split, items in itertools.groupby(self.listing.items, key=lambda item: item.split):
                for number, rows in enumerate(self._chunks(self._rows(items)), first.get(split, 0)):
                    if upload:
                        shards.append(upload.result())
                    upload = uploader.submit(self._put, split, number, rows, bool(first))
            if upload:
                shards.append(upload.result())
        return shards

    def compare(self, item: SourceImage, row: ImageRow, *, is_corrected: bool) -> None:
        """Tell where an image of the folder is not the one that the line holds.

        Args:
            item: The image in the folder.
            row: The image in the line.
            is_corrected: Whether its label has come back to the line, so that the folder need not know it.
        """
        try:
            image = self._get(item.image_id)
            same = hashlib.sha256(image).hexdigest() == row.sha256
            other_roi = same and bool(item.roi_keys) and self._load_roi(item, check_image(image)) != row.roi
        except RejectedImage as error:
            self.rejects.append(Reject(item.image_id, error.reason, error.detail))
            return
        if not same:
            detail = "the line holds another image of this name; give the new one another name, or pack the line again"
            self.rejects.append(Reject(item.image_id, "other_image", detail))
        elif other_roi:
            detail = "the folder has another region of interest for it; the line's stays until it is packed again"
            self.findings.append(PackFinding(item.image_id, "other region of interest", detail))
        elif item.mask_keys and item.label == row.label == "ng" and row.mask is None:
            detail = "the folder has a mask of it, the line has none; `raybench labels import` takes masks over"
            self.findings.append(PackFinding(item.image_id, "other mask", detail))
        elif not is_corrected and (item.label, item.split) != (row.label, row.split):
            detail = (
                f"the folder says {item.split}/{item.label}, the line {row.split}/{row.label}, which stays; "
                "`raybench labels import` changes labels"
            )
            self.findings.append(PackFinding(item.image_id, "other label", detail))

    def note_group(self, row: ImageRow) -> None:
        """Note which images show the same part."""
        if row.group:
            self.groups[row.group].setdefault(row.split, []).append(row.image_id)

    def manifest(self, shards: list[ShardInfo]) -> Manifest:
        black, white = self.options.levels or self._levels()
        heights, widths = [height for _, height, _ in self.sizes], [width for *_, width in self.sizes]
        typical = [size for size in self.sizes if size[0] == "train"] or self.sizes
        clipped = [
            PackFinding(
                image_id,
                "clipped",
                f"its values go from {low} to {high}; black is {black} and white {white}, by the training images",
            )
            for image_id, _, (low, high) in self.bands
            if low < black or high > white
        ]
        leaks = (_leak(group, splits) for group, splits in self.groups.items() if {"train", "test"} <= splits.keys())
        whole = self._whole_findings() if self.regions else ()
        return Manifest(
            line=self.line,
            schema_version=SCHEMA_VERSION,
            layout=self.listing.layout,
            counts=dict(sorted(self.counts.items())),
            masks=self.masks,
            median_height=statistics.median_low(height for _, height, _ in typical),
            median_width=statistics.median_low(width for _, _, width in typical),
            min_height=min(heights),
            min_width=min(widths),
            max_height=max(heights),
            max_width=max(widths),
            white_level=white,
            black_level=black,
            shards=tuple(shards),
            attributes=tuple(sorted(self.attributes)),
            roi=self._roi_summary(),
            rejects=tuple(sorted(self.rejects, key=lambda reject: reject.path)),
            findings=tuple(sorted([*self.findings, *clipped, *leaks, *whole], key=lambda finding: finding.path)),
        )

    def _whole_findings(self) -> Iterator[PackFinding]:
        if ids := self.looked_at_whole:
            detail = f"all of {len(ids)} images is looked at, such as {ids[0]}; the others have a region of interest"
            yield PackFinding(ids[0], "no region of interest", detail)

    def _roi_summary(self) -> RoiSummary | None:
        if not self.regions:
            return None
        different = {name for name, _ in self.regions}
        kept = statistics.fmean(share for _, share in self.regions)
        return RoiSummary(
            len(self.regions), kept, "" if self.looked_at_whole or len(different) > 1 else different.pop()
        )

    def _levels(self) -> tuple[int, int]:
        """Return black and white of the training images: test images must not decide how those look."""
        bands = [band for _, split, band in self.bands if split == "train"] or [band for *_, band in self.bands]
        low, high = min((low for low, _ in bands), default=0), max((high for _, high in bands), default=0)
        white, width = int(2 ** max(8, high.bit_length()) - 1), high - low
        if not 0 < NARROW * width < white:
            return 0, white
        margin = max(width, EIGHT_BITS - width)
        black = max(0, low - margin)
        return black, min(2**16 - 1, max(high + margin, black + EIGHT_BITS))

    def _rows(self, items: Iterable[SourceImage]) -> Iterator[ImageRow]:
        """Yield the usable images in order, read and checked by several threads."""
        items = iter(items)
        readers = self.options.readers or _readers(self.source)
        with ThreadPoolExecutor(readers) as pool:
            window = deque(pool.submit(self._load, item) for item in itertools.islice(items, 2 * readers))
            while window:
                loaded = window.popleft().result()
                window.extend(pool.submit(self._load, item) for item in itertools.islice(items, 1))
                if isinstance(loaded, list):
                    self.rejects += loaded
                else:
                    self._note(loaded)
                    yield loaded.row

    def _load(self, item: SourceImage) -> _Loaded | list[Reject]:
        try:
            image = self._get(item.image_id)
            facts = check_image(image)
            self._check_depth(facts)
        except RejectedImage as error:
            return [Reject(item.image_id, error.reason, error.detail)]
        sha256 = hashlib.sha256(image).hexdigest()
        if sha256 in self.held:
            detail = f"the line holds this file as {self.held[sha256]}; `raybench labels import` changes labels"
            return [Reject(item.image_id, "same_image", detail)]
        try:
            region = self._load_roi(item, facts)
        except RejectedImage as error:
            files = (Reject(key, error.reason, f"{item.image_id} is left out: {error.detail}") for key in item.roi_keys)
            return [Reject(item.image_id, error.reason, error.detail), *files]
        mask, rejects = self._load_mask(item, facts)
        if item.is_labelled_by_mask and mask is None:
            return [*rejects, layouts.without_label(item.image_id, item.mask_keys[0])]
        row = ImageRow(
            image_id=item.image_id,
            image=image,
            image_path=item.image_id,
            mask=mask.data if mask else None,
            mask_path=(item.mask_keys[0] if len(item.mask_keys) == 1 else _folder_of(item.mask_keys)) if mask else None,
            line=self.line,
            split=item.split,
            label=item.label,
            defect_type=item.defect_type,
            group=item.group,
            attributes=item.attributes,
            height=facts.height,
            width=facts.width,
            sha256=sha256,
            roi=region,
            roi_path=self._roi_path(item),
        )
        roi = roi_of(row)
        findings = [*_mask_findings(item, mask)] if mask else []
        if mask and roi and item.label == "ng":
            findings += _outside_findings(item, mask, roi)
        return _Loaded(row, facts, tuple(rejects), tuple(findings), roi)

    def _load_roi(self, item: SourceImage, facts: ImageFacts) -> bytes | None:
        """Return the region of interest of an image, its own or that of all. Raises RejectedImage if it does not fit.

        Without its region, an image cannot be packed: what it shows elsewhere would count.
        """
        own = [RoiFile(key, self._get(key)) for key in item.roi_keys]
        files = own or ([self.roi] if self.roi else [])
        return fit_roi(files, facts) if files else None

    def _roi_path(self, item: SourceImage) -> str | None:
        if not item.roi_keys:
            return self.roi.name if self.roi else None
        return item.roi_keys[0] if len(item.roi_keys) == 1 else _folder_of(item.roi_keys)

    def _load_mask(self, item: SourceImage, facts: ImageFacts) -> tuple[FittedMask | None, list[Reject]]:
        """Return the mask of an image, and the files that cannot be used. One bad part makes the whole mask unknown."""
        masks, rejects = [], []
        for key in item.mask_keys:
            try:
                masks.append(fit_mask(self._get(key), facts))
            except RejectedImage as error:
                rejects.append(Reject(key, _mask_reason(error.reason), f"{error.detail} ({item.image_id} has no mask)"))
        if rejects:
            refused = {reject.path for reject in rejects}
            detail = f"another part of the mask of {item.image_id} cannot be used"
            return None, rejects + [
                Reject(key, "mask_incomplete", detail) for key in item.mask_keys if key not in refused
            ]
        if not masks:
            return None, []
        mask = masks[0] if len(masks) == 1 else _union(masks)
        if reason := _contradiction(item, mask):
            return None, [Reject(key, *reason) for key in item.mask_keys]
        return mask, []

    def _check_depth(self, facts: ImageFacts) -> None:
        """Reject deeper images for an 8-bit line, where they would be all white."""
        if self.options.levels == (0, EIGHT_BITS) and (facts.highest or 0) > EIGHT_BITS:
            raise RejectedImage("too_deep", f"its values reach {facts.highest}; the line's images have 8 bits")

    def _get(self, key: str) -> bytes:
        try:
            return self.source.get(key)
        except ObjectMissing as error:
            raise RejectedImage("missing_file", f"{key} was listed and has disappeared") from error

    def _note(self, loaded: _Loaded) -> None:
        row, facts = loaded.row, loaded.facts
        self.rejects += loaded.rejects
        self.findings += loaded.findings
        self.counts[f"{row.split}/{row.label}"] += 1
        self.masks += row.mask is not None
        self.sizes.append((row.split, row.height, row.width))
        if row.roi is None or loaded.roi is None:
            self.looked_at_whole.append(row.image_id)
        else:
            kept = 1 - loaded.roi.outside_px / (row.height * row.width)
            self.regions.append((hashlib.sha256(row.roi).hexdigest(), kept))
        self.note_group(row)
        self.attributes.update(name for name, _ in row.attributes)
        if facts.band is not None:
            self.bands.append((row.image_id, row.split, facts.band))

    def _chunks(self, rows: Iterator[ImageRow]) -> Iterator[list[ImageRow]]:
        """Group rows into shards."""
        shard: list[ImageRow] = []
        size = bytes_done = 0
        for row in rows:
            shard.append(row)
            size += row.size
            bytes_done += row.size
            self.progress(Progress(len(self.sizes), len(self.listing.items), bytes_done, len(self.rejects)))
            if size >= self.options.shard_mb * 1_000_000 or len(shard) >= self.options.shard_rows:
                yield shard
                shard, size = [], 0
        if shard:
            yield shard

    def _put(self, split: str, number: int, rows: list[ImageRow], keep: bool) -> ShardInfo:
        """Write a shard; `keep`: under the first number from `number` that is free."""
        data = write_shard(rows, self.options.row_group_mb)
        keys = (f"{self.line}/{split}-{free:05}.parquet" for free in itertools.count(number))
        key = next(key for key in keys if not keep or self.lines.put_if_absent(key, data))
        if not keep:
            self.lines.put(key, data)
        return describe(key, split, rows, data)


def _readers(source: Store) -> int:
    return (os.cpu_count() or 1) + 1 if source.uri().startswith("file://") else REMOTE_READERS
