"""Measurements of a shard's images that are kept, `<line>/measured/<shard>-<digest>.npz`, so that none is made twice.

What is kept depends on the images alone. Labels and masks that came back are laid over it, so a corrected label is
inspected without reading an image.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, fields, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raybench.data.corrections import read_corrections
from raybench.data.decode import decode_mask
from raybench.data.inspection.properties import Properties, Unreadable, measure_shard
from raybench.data.manifest import Manifest, ShardInfo
from raybench.errors import IntegrityError, ObjectMissing, StoreDenied
from raybench.metrics import npz
from raybench.store import Store, digest

VERSION = 1  # of what `properties` measures: a change there without a higher one here finds old measurements
_KIND, _COLUMN, _UNREADABLE = "measured", "column ", "unreadable "
_LOST = tuple(each.name for each in fields(Unreadable))


def measured_shard(lines: Store, manifest: Manifest, shard: ShardInfo, kept: Store, threads: int = 1) -> Properties:
    """Return the properties of a shard's images, measured unless they are kept.

    Args:
        lines: The store of lines.
        manifest: Manifest of the line.
        shard: The shard.
        kept: Store where measurements are kept, laid out like a store of lines.
        threads: Threads that decode.

    Raises:
        IntegrityError: The shard is damaged.
        StoreError: A store cannot be read.
    """
    identity = digest([VERSION, shard.sha256, manifest.black_level, manifest.white_level])
    key = f"{manifest.line}/measured/{PurePosixPath(shard.key).stem}-{identity[:16]}.npz"
    found = None
    for store in (lines,) if kept is lines else (lines, kept):
        with contextlib.suppress(ObjectMissing, IntegrityError):  # what is damaged is measured anew
            found = found or _from_bytes(store.get(key))
    if found is None:
        found = measure_shard(lines, manifest, replace(shard, labels=None), threads)
        with contextlib.suppress(StoreDenied):
            kept.put(key, _to_bytes(found))
    return _corrected(found, lines, shard)


def _corrected(found: Properties, lines: Store, shard: ShardInfo) -> Properties:
    """Lay labels and masks that came back over what was measured."""
    corrections = read_corrections(lines, shard)
    if not corrections or not len(found.table):
        return found
    table = found.table.copy()
    for at, row in enumerate(found.table.to_dict("records")):
        if correction := corrections.get(row["image_id"]):
            mask = correction.mask
            share = decode_mask(mask, row["height"], row["width"]).mean() if mask is not None else float("nan")
            table.loc[at, ["label", "mask_share"]] = [correction.label, float(share)]
    return Properties(table, found.fingerprints, found.unreadable)


def _to_bytes(found: Properties) -> bytes:
    columns = {f"{_COLUMN}{name}": _array(found.table[name]) for name in found.table}
    unreadable = [asdict(image) for image in found.unreadable]
    lost = {f"{_UNREADABLE}{name}": np.array([image[name] for image in unreadable], np.str_) for name in _LOST}
    return npz.to_bytes(_KIND, VERSION, {"fingerprints": found.fingerprints, **columns, **lost})


def _array(column: pd.Series[Any]) -> npt.NDArray[Any]:
    return column.to_numpy() if column.dtype.kind in "fib" else column.to_numpy(np.str_)


def _from_bytes(data: bytes) -> Properties:
    arrays = npz.from_bytes(_KIND, VERSION, data)
    table = pd.DataFrame(
        {name.removeprefix(_COLUMN): array for name, array in arrays.items() if name.startswith(_COLUMN)}
    )
    lost = zip(*(arrays[f"{_UNREADABLE}{name}"].tolist() for name in _LOST), strict=True)
    return Properties(table, arrays["fingerprints"], tuple(Unreadable(*image) for image in lost))
