"""Helpers of the formats: files that are written item by item, so that memory does not grow with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from raybench.report.annotations.item import AnnotatedImage

Add = Callable[[AnnotatedImage], None]
"""Writes one more image to an export."""


@contextmanager
def json_array(file: TextIO) -> Iterator[Callable[[Any], None]]:
    """Write a JSON array element by element, each on a row of its own."""
    before = "["

    def add(element: Any) -> None:
        nonlocal before
        file.write(f"{before}\n{json.dumps(element, allow_nan=False)}")
        before = ","

    yield add
    file.write(f"{'[' if before == '[' else ''}\n]")


def run_lengths(values: npt.NDArray[np.bool_]) -> list[int]:
    """Return the run lengths of a flat array, False and True in turn; the first is 0 if it starts with True."""
    turns = np.flatnonzero(np.diff(values, prepend=False))
    ends = np.append(turns, len(values))
    return [int(length) for length in np.diff(ends, prepend=0)]
