"""Save and load the attributes of an object: NumPy arrays and JSON values in one safetensors file, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from raybench.errors import IntegrityError, ModelError

_NUMBER_KINDS = "biuf"
_VALUES, _SCALARS = "values", "scalars"
_REST = "attributes"


def save_attributes(owner: str, attributes: Mapping[str, Any], path: Path) -> None:
    """Write attributes so that `load_attributes` returns the same values and types.

    Args:
        owner: The class that holds the attributes, for the error message.
        attributes: NumPy arrays and scalars of bool, int or float types of up to 8 bytes, and JSON values.
        path: The file to write.

    Raises:
        ModelError: An attribute is neither; the message names it.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    values: dict[str, Any] = {}
    scalars: list[str] = []
    for name, value in attributes.items():
        if isinstance(value, np.generic) and _is_numeric(value.dtype):
            arrays[name] = np.asarray(value)
            scalars.append(name)
        elif type(value) is np.ndarray and _is_numeric(value.dtype):
            arrays[name] = np.array(value, order="C")
        elif _is_json(value):
            values[name] = value
        else:
            raise ModelError(
                f"the attribute {name!r} of {owner} cannot be saved: {_describe(value)}. Keep NumPy arrays of numbers "
                "and JSON values in attributes, or define save and restore"
            )
    # One key, because safetensors writes several in any order. `save_file` raises an error of its own for a full disk.
    path.write_bytes(save(arrays, metadata={_REST: json.dumps({_VALUES: values, _SCALARS: scalars}, sort_keys=True)}))


def load_attributes(path: Path) -> dict[str, Any]:
    """Read what `save_attributes` wrote. Raises IntegrityError for any other content."""
    try:
        with safe_open(path, "np") as file:
            metadata = json.loads(file.metadata()[_REST])
            attributes: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            scalars = {name: attributes[name][()] for name in metadata[_SCALARS]}
            return {**attributes, **scalars, **metadata[_VALUES]}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: {error!r}") from error


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in _NUMBER_KINDS and dtype.itemsize <= 8 and dtype.isnative


def _is_json(value: object) -> bool:
    """Whether JSON returns `value` with the same types: not so for tuples, NaN or dictionaries with other keys."""
    if isinstance(value, list):
        return type(value) is list and all(map(_is_json, value))
    if isinstance(value, dict):
        return type(value) is dict and all(type(key) is str and _is_json(each) for key, each in value.items())
    if type(value) is float:
        return bool(np.isfinite(value))
    return value is None or type(value) in (bool, int, str)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"a {type(value).__name__} of type {value.dtype}"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} that holds other than JSON values"
    return f"the number {value}" if isinstance(value, float) else f"a {type(value).__name__}"
