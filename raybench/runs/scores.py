"""Scores shards: the Parquet counterpart of an image shard, with raw scores and quantised heat maps.

A heat map is stored at the network's size in 12 bits: `value = heatmap_lo + heatmap_scale * q`. `fit` names how the
image was fitted to the network, so that `data.geometry.to_source` can map it back exactly to the source's `height` ×
`width`.
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
_ROWS_PER_GROUP = 32  # as many as a GPU scores at once, so that one batch is written while the next is scored
SCHEMA = pa.schema(
    [  # type: ignore[arg-type]
        ("image_id", pa.string()),
        ("line", pa.string()),
        ("model", pa.string()),
        ("detector_id", pa.string()),
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
PREDICTIONS_PER_GROUP = 2**15
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
    """One scored image."""

    image_id: str
    line: str
    model: str
    detector_id: str
    """Identity of the detector, `Unit.detector_id`. Labels are not here: they may change after scoring."""
    score: float
    """Raw score."""
    is_anomalous: bool | None
    """Whether the score exceeds the threshold; None without a threshold."""
    heatmap: npt.NDArray[np.float32] | None
    """(h, w) float32 at the network's size; None if the model makes no heat maps."""
    height: int
    """Height of the source image."""
    width: int
    """Width of the source image."""
    signal: str | None = None


@dataclass(frozen=True)
class Predicted:
    """One image of a prediction, without its heat map."""

    image_id: str
    line: str
    model: str
    score: float
    """Raw score."""
    is_anomalous: bool | None
    """Whether the score exceeds the threshold; None without a threshold."""
    threshold: float | None
    """None if no threshold could be set."""
    excess: float | None
    """Excess over the threshold, see `metrics.threshold`; None without a threshold."""
    height: int
    """Height of the source image."""
    width: int
    """Width of the source image."""
    odd_size: bool
    """Whether the image's size or aspect does not occur on the line."""


def write_predictions(rows: Iterable[Predicted], path: Path) -> None:
    """Write predictions to a Parquet file, with one row group in memory at a time."""
    rows = iter(rows)
    with pq.ParquetWriter(path, PREDICTIONS_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        while group := list(itertools.islice(rows, PREDICTIONS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([vars(row) for row in group], PREDICTIONS_SCHEMA))


def write_scores(rows: Iterable[ScoreRow], *, fit: str) -> bytes:
    """Return a scores shard, with a few dozen heat maps in memory at a time.

    Args:
        rows: Scored images.
        fit: How the images were fitted to the network, the mode of `data.geometry.InputFit`.
    """
    sink = pa.BufferOutputStream()
    rows = iter(rows)
    with pq.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        use_dictionary=["line", "model", "detector_id", "fit"],  # type: ignore[arg-type]
        column_encoding={_HEATMAP: "DELTA_BINARY_PACKED"},
        write_page_checksum=True,
    ) as writer:
        while group := list(itertools.islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([_record(row, fit) for row in group], SCHEMA))
    return sink.getvalue().to_pybytes()


def read_scores(data: bytes, *, only: Collection[str] | None = None) -> list[ScoreRow]:
    """Return the rows of a scores shard.

    Args:
        data: Bytes that were verified against their commit (`Run.get_blob`): a Parquet footer has no checksum.
        only: IDs of the images to return; all if None.

    Raises:
        IntegrityError: `data` is not a scores shard.
    """
    return list(iter_scores(data, only=only))


def iter_scores(data: bytes, *, only: Collection[str] | None = None) -> Iterator[ScoreRow]:
    """Yield the rows of a scores shard like `read_scores`, with a few dozen heat maps in memory at a time."""
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        if not file.schema_arrow.equals(SCHEMA):
            raise pa.ArrowInvalid("its columns are not those of a scores shard")
        for group in range(file.num_row_groups):
            for record in _records(file.read_row_group(group, use_threads=False)):
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
    """Quantise a heat map to 12 bits.

    Args:
        heatmap: (h, w) float32.

    Returns:
        lo, scale and levels, (h, w) uint16 below 2^12; `lo + scale * levels` deviates by at most `scale / 2`.
    """
    lo, high = np.float32(heatmap.min()), np.float32(heatmap.max())
    scale = np.float32((np.float64(high) - np.float64(lo)) / LEVELS)
    if scale == 0:
        return lo, scale, np.zeros(heatmap.shape, np.uint16)
    levels = np.rint((heatmap.astype(np.float64) - lo) / scale)
    return lo, scale, np.clip(levels, 0, LEVELS).astype(np.uint16)


def restore(lo: np.float32, scale: np.float32, levels: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return the heat map of some levels, see `quantise`."""
    return (lo + np.float64(scale) * levels).astype(np.float32)


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """Convert rows to records with heat maps as arrays: lists of Python numbers would take fifty times the memory."""
    lists = table["heatmap"].combine_chunks()
    records: list[dict[str, Any]] = table.drop_columns(["heatmap"]).to_pylist()
    for index, record in enumerate(records):
        item = lists[index]
        record["heatmap"] = item.values.to_numpy() if item.is_valid else None
    return records


def _row(record: dict[str, Any]) -> ScoreRow:
    levels = record.pop("heatmap")
    height, width = record.pop("heatmap_height"), record.pop("heatmap_width")
    lo, scale = record.pop("heatmap_lo"), record.pop("heatmap_scale")
    del record["fit"]
    heatmap = None
    if levels is not None:
        heatmap = restore(lo, scale, levels).reshape(height, width)
    return ScoreRow(heatmap=heatmap, **record)
