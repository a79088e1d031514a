"""One packed line: the store that holds it, its manifest, and its decoded images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.data.decode import decode_image, decode_mask
from raybench.data.manifest import Label, Manifest, Reject, ShardInfo, Split, read_manifest
from raybench.data.roi import fill_outside, roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError, RejectedImage
from raybench.metrics.roi import Roi
from raybench.store import Store


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a line, decoded, with its label and mask."""

    image_id: str
    """Path of the image in the folder that was packed. Unique in its line."""
    split: Split
    label: Label
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    group: str
    """The part, panel or lot that the image shows. Empty if the image belongs to no group."""
    pixels: npt.NDArray[np.uint8]
    """(H, W, 3) uint8 RGB, oriented as EXIF says. 16-bit values are scaled by the manifest's white level."""
    mask: npt.NDArray[np.bool_] | None
    """(H, W) bool, True where the image is defective. None without a mask."""
    roi: npt.NDArray[np.bool_] | None
    """(H, W) bool, True where the image is looked at, its region of interest. None if all of it is."""
    height: int
    """Of `pixels`, `mask` and `roi`, in pixels."""
    width: int
    """Of `pixels`, `mask` and `roi`, in pixels."""

    @property
    def pixels_inside(self) -> npt.NDArray[np.uint8]:
        """The pixels as detectors see them, grey outside of the region of interest: see `roi.fill_outside`."""
        return fill_outside(self.pixels, None if self.roi is None else Roi.of(self.roi))


@dataclass(frozen=True)
class Line:
    """A packed line in a store of lines."""

    store: Store
    """The store of lines. The objects of the line are below `<line>/`."""
    manifest: Manifest
    writable: bool = True
    """Whether sidecar files, as the inspection, may be written beside the line."""

    @classmethod
    def open(cls, store: Store, name: str, writable: bool = True) -> Line:
        """Open the line `name` of `store`.

        Raises:
            LineError: The line is not packed there, or was packed with another schema version.
            IntegrityError: Its manifest is damaged.
        """
        return cls(store, read_manifest(store, name), writable)

    @property
    def name(self) -> str:
        """The line's name."""
        return self.manifest.line

    @property
    def uri(self) -> str:
        """Where the line is: its manifest and its shards are below."""
        return self.store.uri(self.name)

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of images by `split/label`."""
        return self.manifest.counts

    @property
    def rejects(self) -> tuple[Reject, ...]:
        """Files that were not packed, masks included, each with its reason."""
        return self.manifest.rejects

    def attributes(self) -> dict[str, dict[str, str]]:
        """Return by image ID the further columns that the packed table has: `camera`, `light`. No image is read.

        Raises:
            IntegrityError: A shard is damaged.
            StoreError: The store cannot be read.
        """
        shards = (read_rows(self.store, shard, images=False, masks=False) for shard in self.manifest.shards)
        return {row.image_id: dict(row.attributes) for rows in shards for row in rows}

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{self.name}: {counts}" + (f"; {len(self.rejects)} files rejected" if self.rejects else "")

    def images(
        self,
        ids: Collection[str] | None = None,
        splits: Collection[Split] | None = None,
        labels: Collection[Label] | None = None,
    ) -> Iterator[Sample]:
        """Yield the images that match all given filters, in the order of the manifest's shards.

        One row group of encoded images is in memory at a time. With `ids` or `labels`, a shard without any match costs
        no image bytes, and no shard is opened after the last of `ids` was found.

        Args:
            ids: Image IDs to yield. IDs that the line does not hold are left out.
            splits: Splits to yield.
            labels: Labels to yield.

        Raises:
            RejectedImage: An image cannot be decoded.
            IntegrityError: A shard is damaged.
            StoreError: The store cannot be read.
        """
        missing = None if ids is None else set(ids)
        for shard in self.manifest.shards:
            if splits is not None and shard.split not in splits:
                continue
            if missing is None and labels is None:
                yield from self._decode(shard)
            elif missing is None or missing:
                label_of = {row.image_id: row.label for row in read_rows(self.store, shard, images=False, only=missing)}
                if matches := {image_id for image_id, label in label_of.items() if labels is None or label in labels}:
                    yield from self._decode(shard, matches)
                if missing is not None:
                    missing -= label_of.keys()

    def digests(
        self,
        ids: Collection[str] | None = None,
        splits: Collection[Split] = ("test", "unlabelled"),
        *,
        with_roi: bool = False,
    ) -> dict[str, str]:
        """Return the sha256 (hex) of the files of images by image ID. No image is read.

        Args:
            ids: Image IDs to return; IDs that the line does not hold are left out. None: all.
            splits: Splits of the images.
            with_roi: Whether the digest of an image's region of interest follows that of its file.

        Raises:
            IntegrityError: A shard is damaged.
            StoreError: The store cannot be read.
        """
        wanted = (shard for shard in self.manifest.shards if shard.split in splits)
        shards = (read_rows(self.store, shard, images=False, masks=with_roi, only=ids) for shard in wanted)
        rows = (row for rows in shards for row in rows)
        return {row.image_id: row.sha256 + (f" {_sha256(row.roi)}" if row.roi else "") for row in rows}

    def _decode(self, shard: ShardInfo, only: Collection[str] | None = None) -> Iterator[Sample]:
        for row in read_rows(self.store, shard, only=only):
            roi = roi_of(row)
            yield Sample(
                image_id=row.image_id,
                split=row.split,
                label=row.label,
                defect_type=row.defect_type,
                group=row.group,
                pixels=decode_row(row, self.manifest),
                mask=decode_mask(row.mask, row.height, row.width) if row.mask else None,
                roi=None if roi is None else roi.inside,
                height=row.height,
                width=row.width,
            )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rewritten_images(before: Line, now: Line) -> set[str]:
    """Return the ids of test and unlabelled images that both lines have with different bytes. Reads no image."""
    shards = [{shard.sha256 for shard in line.manifest.scored_shards} for line in (before, now)]
    if shards[0] == shards[1]:
        return set()
    digests = [line.digests() for line in (before, now)]
    return {
        image_id for image_id in digests[0].keys() & digests[1].keys() if digests[0][image_id] != digests[1][image_id]
    }


def decode_row(row: ImageRow, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Decode the image of a shard's row.

    Returns:
        (H, W, 3) uint8 RGB, 16-bit values scaled by the manifest's white level.

    Raises:
        RejectedImage: The image cannot be decoded.
        IntegrityError: The image has another size than its row says.
    """
    try:
        image = decode_image(row.image, manifest.white_level, manifest.black_level)
    except RejectedImage as error:
        raise RejectedImage(error.reason, f"{row.image_id} of {manifest.line}: {error.detail}") from error
    if image.shape[:2] != (row.height, row.width):
        size = f"{image.shape[0]}x{image.shape[1]}"
        raise IntegrityError(f"{row.image_id} of {manifest.line}: {size} pixels, its row says {row.height}x{row.width}")
    return image


def decode_inside(row: ImageRow, manifest: Manifest) -> npt.NDArray[np.uint8]:
    """Decode the image of a shard's row as detectors see it: see `roi.fill_outside`. Otherwise like `decode_row`."""
    return fill_outside(decode_row(row, manifest), roi_of(row))
