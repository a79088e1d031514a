"""Shards of made-up rows."""

from __future__ import annotations

from collections.abc import Sequence

from raybench.data.manifest import ShardInfo
from raybench.data.shards import ImageRow, describe, write_shard
from raybench.store import Store


def stored(lines: Store, rows: Sequence[ImageRow], row_group_mb: int = 16) -> ShardInfo:
    """Write the rows as a shard of line `l`."""
    data = write_shard(rows, row_group_mb)
    lines.put("l/test-00000.parquet", data)
    return describe("l/test-00000.parquet", "test", rows, data)
