"""Corrections: a table per shard of labels and masks that replace the shard's own, which stays as it was packed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.data.manifest import Label, LabelTable, ShardInfo
from raybench.errors import IntegrityError
from raybench.store import Store, digest

SCHEMA = pa.schema(
    [  # type: ignore[arg-type]
        ("image_id", pa.string()),
        ("sha256", pa.string()),
        ("label", pa.string()),
        ("defect_type", pa.string()),
        ("mask", pa.binary()),
        ("by", pa.string()),
        ("at", pa.string()),
        ("source", pa.string()),
        ("representative", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Correction:
    """The label and mask of an image, as a person gave them after it was packed."""

    image_id: str
    """ID of the image."""
    sha256: str
    """Hex digest of the image file that the person saw."""
    label: Label
    """"ok", "ng", or "unknown" for an image that is left out of training and of all metrics."""
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    mask: bytes | None
    """PNG of 0 and 255. None without a mask."""
    by: str
    """Who gave the label. Empty if unknown."""
    at: str
    """When, as ISO 8601. Empty if unknown."""
    source: str
    """Name of the file that the label came from."""
    representative: bool = False
    """Whether the image was chosen without looking at it or at scores, so that it counts in any case."""


def put_corrections(lines: Store, shard: ShardInfo, corrections: Sequence[Correction]) -> LabelTable:
    """Write the corrections of a shard's images beside it; the same ones give the same table."""
    rows = [vars(correction) for correction in sorted(corrections, key=lambda each: each.image_id)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    sha256 = hashlib.sha256(data).hexdigest()
    path = PurePosixPath(shard.key)
    key = f"{path.parent}/labels/{path.stem}-{sha256[:16]}.parquet"
    lines.put(key, data)
    left_out = [row["image_id"] for row in rows if row["label"] != "ok"]
    return LabelTable(key, len(rows), len(data), sha256, digest(left_out) if left_out else "")


def read_corrections(lines: Store, shard: ShardInfo) -> Mapping[str, Correction]:
    """Return the corrections of a shard by image id; none for a shard whose own labels hold.

    Raises:
        IntegrityError: The table is damaged.
        StoreError: The store cannot be read.
    """
    if shard.labels is None:
        return {}
    data = lines.get(shard.labels.key)
    if hashlib.sha256(data).hexdigest() != shard.labels.sha256:
        raise IntegrityError(f"{lines.uri(shard.labels.key)} is damaged: its bytes are not those that were written")
    rows = pq.read_table(io.BytesIO(data), schema=SCHEMA).to_pylist()
    # Tables of before `representative` existed have no such column.
    return {row["image_id"]: Correction(**row | {"representative": bool(row["representative"])}) for row in rows}
