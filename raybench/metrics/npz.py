"""Named arrays as bytes, without pickle: how partial metrics travel through the store."""

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
    """A NumPy `.npz` archive with `kind` and `version` inside."""
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **{_VERSION: np.array([kind, str(version)])}, **arrays)
    return sink.getvalue()


def from_bytes(kind: str, version: int, data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays. Raises IntegrityError unless it is a whole archive of this kind and version."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise IntegrityError(f"these bytes are not {kind}: {error}") from error
    found = arrays.pop(_VERSION, np.array([])).tolist()
    if found != [kind, str(version)]:
        raise IntegrityError(f"these bytes are {' version '.join(found) or 'unknown'}, not {kind} version {version}")
    return arrays
