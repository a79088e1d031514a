"""Serialise named arrays without pickle. Partial metrics are stored in this format."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError

_VERSION = "version"
Arrays = Mapping[str, npt.NDArray[Any]]


def to_bytes(kind: str, version: int, arrays: Arrays) -> bytes:
    """Pack arrays into a NumPy `.npz` archive that also holds `kind` and `version`."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:  # 6 takes four times as long
        for name, array in {_VERSION: np.array([kind, str(version)]), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return sink.getvalue()


def from_bytes(kind: str, version: int, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Unpack arrays. Raises IntegrityError unless `data` is an undamaged archive of this kind and version."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise IntegrityError(f"these bytes are not {kind}: {error}") from error
    actual = arrays.pop(_VERSION, np.array([])).tolist()
    if actual != [kind, str(version)]:
        raise IntegrityError(f"these bytes are {' version '.join(actual) or 'unknown'}, not {kind} version {version}")
    return arrays
