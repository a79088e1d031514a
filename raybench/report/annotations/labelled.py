"""What people said of images, as annotation tools write it, before it is matched with a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.data.manifest import Label
from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY

Mask = npt.NDArray[np.bool_]
_FARTHEST = 1e6  # pixels; beyond, a coordinate is a mistake

Draw = Callable[[int, int], Mask]
"""Draws a region on an image of a height and a width, in pixels. Raises InputError when it does not fit."""


@dataclass(frozen=True)
class LabelledRegion:
    """A region that a person outlined."""

    kind: str
    """Its category in the tool, the type of the defect. Empty for raybench's own `anomaly`."""
    draw: Draw | None
    """Draws its pixels. None for a box or a point, which says where the defect is and not which pixels it has."""

    @classmethod
    def of(cls, category: str, draw: Draw | None) -> LabelledRegion:
        """Make a region of a tool's category."""
        return cls("" if category == CATEGORY else category, draw)


@dataclass(frozen=True)
class LabelledImage:
    """An image with what a person said of it."""

    name: str
    """Its ID in the line, or the name that its file had in the tool."""
    regions: tuple[LabelledRegion, ...] = ()
    """What the person outlined."""
    label: Label | None = None
    """What the person said of the whole image; None if only regions speak."""
    defect_type: str = ""
    """Type of the defect that the person named for the whole image."""
    sha256: str = ""
    """Hex digest of the image file that the person saw. Empty if the tool does not keep it."""
    by: str = ""
    """Who said it. Empty if the tool does not keep it."""
    at: str = ""
    """When, as ISO 8601. Empty if the tool does not keep it."""
    line: str = ""
    """The line that it is of, where the file says so."""
    file: Path | None = None
    """The file that is about this image alone, if there is one."""
    size: tuple[int, int] | None = None
    """(height, width) in pixels of the picture that regions are outlined on, if they hold only for this size."""
    is_unsure: bool = False
    """Whether the person could not decide. An image that nobody has labelled is then left out, any other left as it
    is."""
    is_undecided: bool = False
    """Whether the tool says that nobody has decided yet."""


def one_label(names: Sequence[str], where: str) -> Label | None:
    """Return the label among names that a tool lets people choose. Raises InputError when they say both OK and NG."""
    found = {name.lower() for name in names} & {"ok", "ng"}
    if len(found) > 1:
        raise InputError(f"{where} is labelled both OK and NG")
    return found.pop() if found else None  # type: ignore[return-value]


def points_of(values: Sequence[Any], where: str) -> npt.NDArray[np.float64]:
    """Return (n, 2) x and y of pairs of numbers.

    Raises:
        InputError: They are no pairs of finite numbers.
    """
    try:
        points = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: an outline has a coordinate that is no number") from error
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < _FARTHEST).all():
        raise InputError(f"{where}: an outline is not made of pairs of numbers below {_FARTHEST:g}")
    return points


def polygon(outline: npt.NDArray[np.float64]) -> Draw:
    """Return a polygon, given by (n, 2) x and y along the edges of pixels, from 0 to the image's width and height."""
    return lambda height, width: inside(outline, height, width)


def inside(outline: npt.NDArray[np.float64], height: int, width: int) -> Mask:
    """Return the pixels whose centre lies inside a polygon, by the even-odd rule.

    Args:
        outline: (n, 2) x and y in pixels, closed: the last point is joined to the first.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    """
    turns = np.zeros((height, width + 1), np.int64)
    for (x, y), (to_x, to_y) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        low, high = (int(np.clip(np.ceil(side - 0.5), 0, height)) for side in sorted((y, to_y)))
        rows = np.arange(low, high)
        crossings = x + (rows + 0.5 - y) * (to_x - x) / ((to_y - y) or 1.0)
        np.add.at(turns, (rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)), 1)
    return (turns.cumsum(axis=1)[:, :width] % 2).astype(np.bool_)


def from_runs(counts: Sequence[int], height: int, width: int) -> Mask:
    """Return (height, width) bool of run lengths, False and True in turn, row by row.

    Raises:
        InputError: Their sum is not the number of pixels.
    """
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise InputError(f"its run lengths are not those of {width} × {height} pixels")
    return (np.arange(len(counts)) % 2).astype(np.bool_).repeat(np.array(counts, np.int64)).reshape(height, width)


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises InputError when it is none."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from error


def field(record: Any, name: str, kind: type[Any], where: str) -> Any:
    """Return a field of a JSON object. Raises InputError, which names `where`, when it is absent or of another type."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: {name!r} is not there, or not of the kind that the format asks for")
    return value


def optional(record: Any, name: str, kind: type[Any], where: str) -> Any:
    """Return a field of a JSON object, or None if it is absent or null. Raises InputError as `field` does."""
    if isinstance(record, dict) and record.get(name) is None:
        return None
    return field(record, name, kind, where)
