"""Image shards: Parquet files that Hugging Face `datasets`, DuckDB and pandas can open.

The bytes of image files are stored unchanged and uncompressed, as image formats are compressed already. Every page has
a checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.data.corrections import Correction, read_corrections
from raybench.data.manifest import Label, ShardInfo, Split
from raybench.errors import IntegrityError
from raybench.store import Store, digest
from raybench.store.sparse import SparseFile

ROW_GROUP_MB = 16
_TAIL = 8  # bytes at the end of a Parquet file: footer length and magic
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ATTRIBUTES = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))
_FIELDS = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", _FILE),
        ("mask", _FILE),
        ("line", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("defect_type", pa.string()),
        ("group", pa.string()),
        ("attributes", _ATTRIBUTES),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("sha256", pa.string()),
    ]
)
_FIELDS_WITH_ROI = _FIELDS.append(pa.field("roi", _FILE))


def _feature(kind: pa.DataType) -> Any:
    """Return a type as Hugging Face `datasets` describes it in a file's metadata."""
    if kind == _FILE:
        return {"_type": "Image"}
    if kind == _ATTRIBUTES:
        return [{name: _feature(pa.string()) for name in ("name", "value")}]
    return {"_type": "Value", "dtype": str(kind)}


def _with_features(fields: pa.Schema) -> pa.Schema:
    features = {field.name: _feature(field.type) for field in fields}
    return fields.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


SCHEMA = _with_features(_FIELDS)
SCHEMA_WITH_ROI = _with_features(_FIELDS_WITH_ROI)
"""Of shards in which some image has a region of interest."""


@dataclass(frozen=True)
class ImageRow:
    """One image as it is packed."""

    image_id: str
    """Its path in the folder that was packed. Unique in its line."""
    image: bytes
    """The bytes of the image file, unchanged."""
    image_path: str
    mask: bytes | None
    """The bytes of the mask file, or a PNG of 0 and 255 where `decode_mask` would read that otherwise than it is meant;
    see `checks.fit_mask`. None without a mask."""
    mask_path: str | None
    line: str
    split: Split
    label: Label
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    group: str
    """The part, panel or lot that the image shows, as the table names it. Empty if the image belongs to no group."""
    height: int
    """Pixels, oriented as EXIF says."""
    width: int
    """Pixels, oriented as EXIF says."""
    sha256: str
    """Hex digest of `image`."""
    attributes: tuple[tuple[str, str], ...] = ()
    """Names and values of the table's further columns: `camera`, `light`. Sorted by name."""
    roi: bytes | None = None
    """The region of interest, a PNG: 255 where the image is looked at, 0 where it is ignored. None if all of it is
    looked at."""
    roi_path: str | None = None
    """The file that the region came from."""

    @property
    def group_or_id(self) -> str:
        """The group, or the image ID where there is none: the image is then a group of its own."""
        return self.group or self.image_id

    @property
    def size(self) -> int:
        """Bytes of image, mask and region of interest."""
        return len(self.image) + len(self.mask or b"") + len(self.roi or b"")


def write_shard(rows: Sequence[ImageRow], row_group_mb: int = ROW_GROUP_MB) -> bytes:
    """Encode rows as a shard. The same rows give the same bytes.

    Args:
        rows: Images of one split.
        row_group_mb: Most MB of images and masks in a row group. A larger image gets its own.
    """
    sink = pa.BufferOutputStream()
    schema = SCHEMA if all(row.roi is None for row in rows) else SCHEMA_WITH_ROI
    with pq.ParquetWriter(
        sink, schema, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    ) as writer:
        for group in _groups(rows, row_group_mb * 1_000_000):
            writer.write_table(_table(group, schema))
    return sink.getvalue().to_pybytes()


def describe(key: str, split: str, rows: Sequence[ImageRow], data: bytes) -> ShardInfo:
    """Build the manifest's entry of a shard that `write_shard` encoded.

    Args:
        key: Key of the shard in the store of lines.
        split: Split of its images.
        rows: Its images.
        data: Its bytes.
    """
    footer = data[-(int.from_bytes(data[-_TAIL:-4], "little") + _TAIL) :]
    sha256, footer_sha256 = (hashlib.sha256(part).hexdigest() for part in (data, footer))
    images = digest([[row.image_id, row.sha256, *_roi_digest(row)] for row in rows])
    return ShardInfo(key, split, len(rows), len(data), sha256, len(footer), footer_sha256, images)


def _roi_digest(row: ImageRow) -> list[str]:
    return [] if row.roi is None else [hashlib.sha256(row.roi).hexdigest()]


def read_rows(
    lines: Store, shard: ShardInfo, *, images: bool = True, masks: bool = True, only: Collection[str] | None = None
) -> Iterator[ImageRow]:
    """Yield the rows of a shard in order, with the labels and masks that have come back since it was packed.

    One row group is in memory while the next is fetched.

    Args:
        lines: The store of lines.
        shard: The shard's entry in the manifest.
        images: False does not fetch images, and leaves `image` and `image_path` empty.
        masks: False does not fetch masks, and leaves `mask` and `mask_path` None. Regions of interest are fetched with
            images or masks.
        only: Image IDs to yield. None yields all.

    Raises:
        IntegrityError: The shard is damaged.
        StoreError: The store cannot be read.
    """
    wanted = {"image": images, "mask": masks, "roi": images or masks}
    columns = [name for name in SCHEMA_WITH_ROI.names if wanted.get(name, True)]
    corrections = read_corrections(lines, shard)
    file = _RangedFile(lines, shard)
    count = 0
    with ThreadPoolExecutor(1) as pool:
        try:
            metadata = file.metadata()
            groups = range(metadata.num_row_groups)
            fetching = _fetch_later(pool, file, groups, 0, columns)
            for group in groups:
                table = fetching.result() if fetching else None
                fetching = _fetch_later(pool, file, groups, group + 1, columns)
                for record in table.to_pylist() if table else ():
                    count += 1
                    if only is None or record["image_id"] in only:
                        yield _row(record, corrections.get(record["image_id"]))
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise IntegrityError(f"{lines.uri(shard.key)} is damaged: {error}") from error
    if count != shard.rows:
        raise IntegrityError(f"{lines.uri(shard.key)} has {count} rows, its manifest says {shard.rows}")


def _fetch_later(
    pool: ThreadPoolExecutor, file: _RangedFile, groups: range, group: int, columns: list[str]
) -> Future[pa.Table] | None:
    return pool.submit(file.row_group, group, columns) if group in groups else None


class _RangedFile:
    """A Parquet file in the store. Its footer is read once; each row group takes one request per range of columns."""

    def __init__(self, lines: Store, shard: ShardInfo) -> None:
        self._lines, self._shard = lines, shard
        self._metadata: Any = None

    def metadata(self) -> Any:
        shard = self._shard
        footer = self._lines.get_range(shard.key, shard.size - shard.footer_size, shard.footer_size)
        # The digest is checked first, as pyarrow aborts the whole process on some damaged footers.
        if hashlib.sha256(footer).hexdigest() != shard.footer_sha256:
            raise pa.ArrowInvalid("its footer is not the one that was written")
        self._metadata = pq.read_metadata(io.BytesIO(b"PAR1" + footer))
        if not any(map(self._metadata.schema.to_arrow_schema().equals, (SCHEMA, SCHEMA_WITH_ROI))):
            raise pa.ArrowInvalid("its columns are not those of an image shard")
        return self._metadata

    def row_group(self, number: int, columns: list[str]) -> pa.Table:
        group = self._metadata.row_group(number)
        chunks = [group.column(index) for index in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        parts = {start: self._lines.get_range(self._shard.key, start, end - start) for start, end in _spans(wanted)}
        source = pa.PythonFile(SparseFile(self._shard.size, parts), mode="r")
        # With pre_buffer, pyarrow would also read small gaps between the wanted columns, which were not fetched.
        file = pq.ParquetFile(source, metadata=self._metadata, page_checksum_verification=True, pre_buffer=False)
        return file.read_row_group(number, columns=columns, use_threads=False)


def _spans(chunks: Sequence[Any]) -> list[tuple[int, int]]:
    """List the byte ranges (start, end) of column chunks. Adjacent chunks share one."""
    spans: list[tuple[int, int]] = []
    for chunk in chunks:
        start = chunk.data_page_offset
        end = start + chunk.total_compressed_size
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _groups(rows: Sequence[ImageRow], limit: int) -> Iterator[list[ImageRow]]:
    group: list[ImageRow] = []
    size = 0
    for row in rows:
        if group and size + row.size > limit:
            yield group
            group, size = [], 0
        group.append(row)
        size += row.size
    if group:
        yield group


def _table(rows: Sequence[ImageRow], schema: pa.Schema) -> pa.Table:
    """Build a table column by column. From one dictionary per row, pyarrow would copy every image once more."""
    columns: list[Any] = []
    for field in schema:
        if field.type == _FILE:
            files = [(getattr(row, field.name), getattr(row, f"{field.name}_path")) for row in rows]
            parts = [pa.array(values, part.type) for values, part in zip(zip(*files, strict=True), _FILE, strict=True)]
            missing = pa.array([data is None for data, _ in files])
            columns.append(pa.StructArray.from_arrays(parts, fields=list(_FILE), mask=missing))
        elif field.type == _ATTRIBUTES:
            named = [[{"name": name, "value": value} for name, value in row.attributes] for row in rows]
            columns.append(pa.array(named, _ATTRIBUTES))
        else:
            columns.append(pa.array([getattr(row, field.name) for row in rows], field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _row(record: dict[str, Any], correction: Correction | None) -> ImageRow:
    image, mask, roi = (record.pop(name, None) for name in ("image", "mask", "roi"))
    attributes = tuple((each["name"], each["value"]) for each in record.pop("attributes"))
    row = ImageRow(
        image=image["bytes"] if image else b"",
        image_path=image["path"] if image else "",
        mask=mask["bytes"] if mask else None,
        mask_path=mask["path"] if mask else None,
        attributes=attributes,
        roi=roi["bytes"] if roi else None,
        roi_path=roi["path"] if roi else None,
        **record,
    )
    if correction is None:
        return row
    return replace(
        row,
        label=correction.label,
        defect_type=correction.defect_type,
        mask=correction.mask,
        mask_path=correction.source if correction.mask is not None else None,
    )
