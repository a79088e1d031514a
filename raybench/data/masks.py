"""Labels and masks of a shard's images, prepared once per node for all models and seeds.

Masks are kept beside the decoded images as indices of pixels: one file of int32 per shard, of which one image is read
at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from raybench.data.cache import write_cached
from raybench.data.corrections import Correction, read_corrections
from raybench.data.decode import decode_mask
from raybench.data.manifest import Label, ShardInfo
from raybench.data.roi import roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import RejectedImage
from raybench.metrics.masks import Mask
from raybench.metrics.roi import Roi
from raybench.metrics.sampling import permanent_numbers
from raybench.store import Store

_VERSION = 4  # since version 4, there are regions of interest
_LABELLED = ("ok", "ng")


@dataclass(frozen=True)
class Annotation:
    """What people said of one image."""

    image_id: str
    """Id of the image."""
    label: Label
    """"ok", "ng" or "unknown"."""
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    has_mask: bool
    """Whether the image came with a mask file that counts."""
    mask: Mask | None
    """Its anomalous pixels in its region of interest: none for an OK image without a mask. None where they are unknown,
    and for an NG image whose mask marks nothing in the region."""
    roi: Roi | None
    """Its region of interest. None if all of it is looked at."""

    def without_pixels(self) -> Annotation:
        """Return the annotation with a mask that takes no memory to keep; see `Mask.without_pixels`."""
        return replace(self, mask=self.mask and self.mask.without_pixels())


@dataclass(frozen=True)
class ShardAnnotations:
    """The annotations of a shard's images, in the order of the shard."""

    rows: tuple[Mapping[str, Any], ...]
    """Of each image, the fields of `Annotation`, its group or else its id, whether its label counts (see
    `ImageScores.counts`), its size and the numbers of its indices in the file."""
    path: Path
    """File of the indices."""
    rois: tuple[Roi | None, ...]
    """Regions of interest of the images."""

    def __len__(self) -> int:
        return len(self.rows)

    def size(self, position: int) -> tuple[int, int]:
        """Return (height, width) of an image in pixels."""
        return self.rows[position]["height"], self.rows[position]["width"]

    def __getitem__(self, position: int) -> Annotation:
        row, roi, mask = self.rows[position], self.rois[position], None
        if row["known"]:
            counts = np.cumsum([0, *row["counts"]])
            with self.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), 4 * int(counts[-1]), row["offset"])
            if len(data) != 4 * counts[-1]:
                raise OSError(f"{self.path}: the mask of {row['image_id']} is cut off")
            values = np.frombuffer(data, np.int32)
            pixels, regions, areas, around = (values[start:end] for start, end in itertools.pairwise(counts))
            mask = Mask(row["height"], row["width"], pixels, regions, areas.astype(np.int64), around, roi)
        return Annotation(row["image_id"], row["label"], row["defect_type"], row["has_mask"], mask, roi)


def open_annotations(lines: Store, shard: ShardInfo, cache_dir: Path, reach: float = 1.0) -> ShardAnnotations:
    """Open the annotations of a shard. Its masks are decoded unless this node has done so before.

    Args:
        lines: The store of lines.
        shard: The shard.
        cache_dir: Folder of what this node has decoded.
        reach: How far the sample of its pool reaches, `Manifest.reach`.

    Raises:
        IntegrityError: The shard is damaged.
        RejectedImage: A mask cannot be decoded.
    """
    identity = ["masks", _VERSION, shard.sha256, shard.labels.sha256 if shard.labels else "", reach]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    indices, index = cache_dir / f"{name}.i32", cache_dir / f"{name}.json"
    if not (indices.exists() and index.exists()):
        write_cached((indices, index), lambda file: _prepare(lines, shard, reach, file))
    with contextlib.suppress(FileNotFoundError):
        os.utime(indices)
    found = json.loads(index.read_text())
    regions = [*map(Roi.from_text, found["regions"]), None]
    rois = tuple(regions[row["roi"]] for row in found["rows"])
    return ShardAnnotations(tuple(found["rows"]), indices, rois)


def _prepare(lines: Store, shard: ShardInfo, reach: float, file: BinaryIO) -> dict[str, Any]:
    rows, offset, corrections, regions = [], 0, read_corrections(lines, shard), dict[Roi, int]()
    for row in read_rows(lines, shard, images=False):
        roi = roi_of(row)
        mask = _mask(row, roi)
        parts = (mask.pixels, mask.regions, mask.areas.astype(np.int32), mask.around) if mask else ()
        for part in parts:
            file.write(part.tobytes())
        counts = [len(part) for part in parts]
        rows.append(
            {
                "image_id": row.image_id,
                "label": row.label,
                "defect_type": row.defect_type,
                "has_mask": row.mask is not None and (mask is not None or roi is None),
                "group": row.group_or_id,
                "is_counted": _is_counted(row.image_id, reach, corrections.get(row.image_id)),
                "known": mask is not None,
                "roi": -1 if roi is None else regions.setdefault(roi, len(regions)),
                "height": row.height,
                "width": row.width,
                "counts": counts,
                "offset": offset,
            }
        )
        offset += 4 * sum(counts)
    return {"rows": rows, "regions": [roi.to_text() for roi in regions]}


def _is_counted(image_id: str, reach: float, correction: Correction | None) -> bool:
    """Return whether the label of an image counts. reach: of the sample of its pool; 1 outside of pools."""
    return bool(correction and correction.representative) or float(permanent_numbers([image_id])[0]) < reach


def _mask(row: ImageRow, roi: Roi | None) -> Mask | None:
    """Return the anomalous pixels of an image; None if they are unknown, as those of an NG image without a mask.

    An NG image whose mask lies outside its region of interest contradicts itself: it is no image without a defect.
    """
    if row.label not in _LABELLED:
        return None
    if row.mask is not None:
        try:
            mask = Mask.of(decode_mask(row.mask, row.height, row.width), roi)
        except RejectedImage as error:
            raise RejectedImage(error.reason, f"mask of {row.image_id}: {error.detail}") from error
        return None if roi and row.label == "ng" and not mask.area else mask
    return Mask.empty(row.height, row.width, roi) if row.label == "ok" else None
