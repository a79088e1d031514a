"""Image shards: Parquet files that Hugging Face `datasets`, DuckDB and pandas open as they are.

Images are kept as the bytes they came in; nothing is compressed a second time. Every page has a checksum.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raybench.data.manifest import ShardInfo
from raybench.errors import IntegrityError
from raybench.store import Store

ROW_GROUP_MB = 16
_TAIL = 8  # bytes of footer length and magic at a Parquet file's end
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", _FILE),
        ("mask", _FILE),
        ("line", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("defect_type", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """One image. image: encoded bytes, untouched. mask: the same, but for one that was turned with its image (see
    `checks.fit_mask`). height, width: pixels, turned as EXIF says. sha256: hex, of `image`."""

    image_id: str
    image: bytes
    image_path: str
    mask: bytes | None
    mask_path: str | None
    line: str
    split: str
    label: str
    defect_type: str
    height: int
    width: int
    sha256: str

    @property
    def size(self) -> int:
        return len(self.image) + len(self.mask or b"")


def write_shard(rows: Sequence[ImageRow], row_group_mb: int = ROW_GROUP_MB) -> bytes:
    """A shard of `rows`, the same bytes for the same rows."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, SCHEMA, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    ) as writer:
        for group in _groups(rows, row_group_mb * 1_000_000):
            writer.write_table(_table(group))
    return sink.getvalue().to_pybytes()


def describe(key: str, split: str, rows: int, data: bytes) -> ShardInfo:
    """What the manifest says of a shard that `write_shard` wrote."""
    footer = data[-(int.from_bytes(data[-_TAIL:-4], "little") + _TAIL) :]
    sha256, footer_sha256 = (hashlib.sha256(part).hexdigest() for part in (data, footer))
    return ShardInfo(key, split, rows, len(data), sha256, len(footer), footer_sha256)


def read_rows(
    lines: Store, shard: ShardInfo, *, images: bool = True, only: Collection[str] | None = None
) -> Iterator[ImageRow]:
    """The rows of a shard in order, one row group in memory and the next on its way.

    images: False leaves `image` empty and does not fetch it. only: image ids to keep.
    Raises IntegrityError for damage of any kind, and the store's own errors.
    """
    columns = [name for name in SCHEMA.names if images or name != "image"]
    file = _RangedFile(lines, shard)
    seen = 0
    with ThreadPoolExecutor(1) as pool:
        try:
            metadata = file.metadata()
            groups = range(metadata.num_row_groups)
            ahead = _fetch_later(pool, file, groups, 0, columns)
            for at in groups:
                table = ahead.result() if ahead else None
                ahead = _fetch_later(pool, file, groups, at + 1, columns)
                for record in table.to_pylist() if table else ():
                    seen += 1
                    if only is None or record["image_id"] in only:
                        yield _row(record)
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise IntegrityError(f"{lines.uri(shard.key)} is damaged: {error}") from error
    if seen != shard.rows:
        raise IntegrityError(f"{lines.uri(shard.key)} has {seen} rows, its manifest says {shard.rows}")


def _fetch_later(
    pool: ThreadPoolExecutor, file: _RangedFile, groups: range, at: int, columns: list[str]
) -> Future[pa.Table] | None:
    return pool.submit(file.row_group, at, columns) if at in groups else None


class _RangedFile:
    """A Parquet file in the store: its footer once, then the wanted bytes of each row group in one request."""

    def __init__(self, lines: Store, shard: ShardInfo) -> None:
        self._lines, self._shard = lines, shard
        self._metadata: Any = None

    def metadata(self) -> Any:
        shard = self._shard
        footer = self._lines.get_range(shard.key, shard.size - shard.footer_size, shard.footer_size)
        # Checked before it is parsed: the reader aborts the whole process on some damaged footers.
        if hashlib.sha256(footer).hexdigest() != shard.footer_sha256:
            raise pa.ArrowInvalid("its footer is not the one that was written")
        self._metadata = pq.read_metadata(io.BytesIO(b"PAR1" + footer))
        if not self._metadata.schema.to_arrow_schema().equals(SCHEMA):
            raise pa.ArrowInvalid("its columns are not those of an image shard")
        return self._metadata

    def row_group(self, at: int, columns: list[str]) -> pa.Table:
        group = self._metadata.row_group(at)
        chunks = [group.column(index) for index in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        parts = {start: self._lines.get_range(self._shard.key, start, end - start) for start, end in _spans(wanted)}
        source = pa.PythonFile(_Sparse(self._shard.size, parts), mode="r")
        # Buffering ahead would also read what lies between the wanted columns where that is little.
        file = pq.ParquetFile(source, metadata=self._metadata, page_checksum_verification=True, pre_buffer=False)
        return file.read_row_group(at, columns=columns, use_threads=False)


def _spans(chunks: Sequence[Any]) -> list[tuple[int, int]]:
    """Byte ranges of column chunks, neighbours joined."""
    spans: list[tuple[int, int]] = []
    for chunk in chunks:
        start = chunk.data_page_offset
        end = start + chunk.total_compressed_size
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


class _Sparse(io.RawIOBase):
    """A file of which only some ranges are here; reading any other is an error."""

    def __init__(self, size: int, parts: dict[int, bytes]) -> None:
        self._size, self._parts, self._at = size, parts, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        for start, data in self._parts.items():
            if start <= self._at and self._at + size <= start + len(data):
                found = data[self._at - start : self._at - start + size]
                self._at += len(found)
                return found
        raise OSError(f"bytes {self._at}..{self._at + size} were not fetched")


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


def _table(rows: Sequence[ImageRow]) -> pa.Table:
    """Built column by column: a dictionary per row would copy every image once more."""
    columns: list[Any] = []
    for field in SCHEMA:
        if field.type == _FILE:
            found = [(getattr(row, field.name), getattr(row, f"{field.name}_path")) for row in rows]
            parts = [pa.array(values, part.type) for values, part in zip(zip(*found, strict=True), _FILE, strict=True)]
            missing = pa.array([data is None for data, _ in found])
            columns.append(pa.StructArray.from_arrays(parts, fields=list(_FILE), mask=missing))
        else:
            columns.append(pa.array([getattr(row, field.name) for row in rows], field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _row(record: dict[str, Any]) -> ImageRow:
    image, mask = record.pop("image", None), record.pop("mask")
    return ImageRow(
        image=image["bytes"] if image else b"",
        image_path=image["path"] if image else "",
        mask=mask["bytes"] if mask else None,
        mask_path=mask["path"] if mask else None,
        **record,
    )
