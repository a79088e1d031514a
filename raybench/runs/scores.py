"""Scores shards: the Parquet twin of an image shard, with raw scores and quantised heat maps.

A heat map is kept at the network's size, in 12 bits: `value = heatmap_lo + heatmap_scale * q`. `fit` names how the
image met the network, so `fit.to_source` maps it exactly back to the source's `height` x `width`.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raybench.errors import IntegrityError

LEVELS = 2**12 - 1
_ROWS_PER_GROUP = 64
SCHEMA = pa.schema(
    [  # type: ignore[arg-type]
        ("image_id", pa.string()),
        ("line", pa.string()),
        ("model", pa.string()),
        ("unit_id", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("is_anomalous", pa.bool_()),
        ("heatmap", pa.list_(pa.uint16())),
        ("heatmap_height", pa.int32()),
        ("heatmap_width", pa.int32()),
        ("heatmap_lo", pa.float32()),
        ("heatmap_scale", pa.float32()),
        ("fit", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("signal", pa.string()),
    ]
)
_HEATMAP = "heatmap.list.element"
_PREDICTIONS_PER_GROUP = 2**15
PREDICTIONS_SCHEMA = pa.schema(
    [  # type: ignore[arg-type]
        ("image_id", pa.string()),
        ("line", pa.string()),
        ("model", pa.string()),
        ("score", pa.float64()),
        ("is_anomalous", pa.bool_()),
        ("threshold", pa.float64()),
        ("excess", pa.float64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("odd_size", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class ScoreRow:
    """One scored image. score: raw. is_anomalous: None where no threshold could be set. heatmap: (h, w) float32 at
    the network's size, or None. height, width: of the source image."""

    image_id: str
    line: str
    model: str
    unit_id: str
    label: str
    score: float
    is_anomalous: bool | None
    heatmap: npt.NDArray[np.float32] | None
    height: int
    width: int
    signal: str | None = None


@dataclass(frozen=True)
class Predicted:
    """One image of a prediction, without its heat map. is_anomalous, threshold, excess: None where no threshold could
    be set; excess: see `metrics.threshold`. odd_size: its size or aspect is none that the line's images have."""

    image_id: str
    line: str
    model: str
    score: float
    is_anomalous: bool | None
    threshold: float | None
    excess: float | None
    height: int
    width: int
    odd_size: bool


def write_predictions(rows: Iterable[Predicted], path: Path) -> None:
    """A table of predictions as Parquet, a row group in memory at a time."""
    rows = iter(rows)
    with pq.ParquetWriter(path, PREDICTIONS_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while group := list(itertools.islice(rows, _PREDICTIONS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([vars(row) for row in group], PREDICTIONS_SCHEMA))


def write_scores(rows: Iterable[ScoreRow], *, fit: str) -> bytes:
    """A scores shard. Holds a few dozen heat maps at a time. fit: the mode of `fit.InputFit`."""
    sink = pa.BufferOutputStream()
    rows = iter(rows)
    with pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        use_dictionary=["line", "model", "unit_id", "label", "fit"],  # type: ignore[arg-type]
        column_encoding={_HEATMAP: "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
    ) as writer:
        while group := list(itertools.islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([_record(row, fit) for row in group], SCHEMA))
    return sink.getvalue().to_pybytes()


def read_scores(data: bytes, *, only: Collection[str] | None = None) -> list[ScoreRow]:
    """The rows of a scores shard. only: image ids to keep. Raises IntegrityError when it is not one.

    data: a blob whose commit vouches for its bytes (`Run.get_blob`): a Parquet footer has no checksum of its own.
    """
    return list(iter_scores(data, only=only))


def iter_scores(data: bytes, *, only: Collection[str] | None = None) -> Iterator[ScoreRow]:
    """As `read_scores`, with a few dozen heat maps in memory at a time."""
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        if not file.schema_arrow.equals(SCHEMA):
            raise pa.ArrowInvalid("its columns are not those of a scores shard")
        for at in range(file.num_row_groups):
            for record in _records(file.read_row_group(at, use_threads=False)):
                if only is None or record["image_id"] in only:
                    yield _row(record)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"a scores shard is damaged: {error}") from error


def _record(row: ScoreRow, fit: str) -> dict[str, Any]:
    record = {name: getattr(row, name) for name in SCHEMA.names if hasattr(row, name)}
    if row.heatmap is None:
        return record | {"fit": fit}
    height, width = row.heatmap.shape
    lo, scale, levels = quantise(row.heatmap)
    return record | {
        "heatmap": levels.ravel(),
        "heatmap_height": height,
        "heatmap_width": width,
        "heatmap_lo": lo,
        "heatmap_scale": scale,
        "fit": fit,
    }


def quantise(heatmap: npt.NDArray[np.float32]) -> tuple[np.float32, np.float32, npt.NDArray[np.uint16]]:
    """lo, scale and levels (h, w) uint16 below 2^12; `lo + scale * levels` is at most `scale / 2` away."""
    lo, high = np.float32(heatmap.min()), np.float32(heatmap.max())
    scale = np.float32((np.float64(high) - np.float64(lo)) / LEVELS)
    if scale == 0:
        return lo, scale, np.zeros(heatmap.shape, np.uint16)
    levels = np.rint((heatmap.astype(np.float64) - lo) / scale)
    return lo, scale, np.clip(levels, 0, LEVELS).astype(np.uint16)


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """Records with the heat map as an array: a Python list of pixels would take fifty times its memory."""
    lists = table["heatmap"].combine_chunks()
    records: list[dict[str, Any]] = table.drop_columns(["heatmap"]).to_pylist()
    for at, record in enumerate(records):
        item = lists[at]
        record["heatmap"] = item.values.to_numpy() if item.is_valid else None
    return records


def _row(record: dict[str, Any]) -> ScoreRow:
    levels = record.pop("heatmap")
    height, width = record.pop("heatmap_height"), record.pop("heatmap_width")
    lo, scale = record.pop("heatmap_lo"), record.pop("heatmap_scale")
    del record["fit"]
    heatmap = None
    if levels is not None:
        heatmap = (lo + np.float64(scale) * levels).astype(np.float32).reshape(height, width)
    return ScoreRow(heatmap=heatmap, **record)
