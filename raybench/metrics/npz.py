"""Serialise named arrays without pickle. Partial metrics are stored in this format."""

from __future__ import annotations

import functools
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
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            arrays = {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in archive.infolist()}
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise IntegrityError(f"these bytes are not {kind}: {error}") from error
    actual = arrays.pop(_VERSION, np.array([])).tolist()
    if actual != [kind, str(version)]:
        raise IntegrityError(f"these bytes are {' version '.join(actual) or 'unknown'}, not {kind} version {version}")
    return arrays


def _array(content: bytes) -> npt.NDArray[Any]:
    """Return the array of an `.npy` file: what `np.load` returns, in a third of its time where arrays are small."""
    start = 10 + int.from_bytes(content[8:10], "little")  # of version 1.0, the only one that arrays of plain types have
    shape, is_fortran, dtype = _header(content[:start])
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C").copy("K")


@functools.lru_cache(1024)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(header)
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"an array in format {version}")
    return np.lib.format.read_array_header_1_0(file)
