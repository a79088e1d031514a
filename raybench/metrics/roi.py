"""The region of interest of an image: the pixels that are looked at. All others count in nothing."""

from __future__ import annotations

import base64
import functools
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Roi:
    """A region of interest of an image of one size. Equal regions are equal and have one hash."""

    height: int
    """Of the image, in pixels."""
    width: int
    """Of the image, in pixels."""
    runs: bytes
    """Ascending int32, little-endian: start and end, alternately, of each run of pixels outside the region. They are
    positions in the flattened image, row by row."""

    @classmethod
    def of(cls, inside: Bools) -> Roi:
        """Describe a region (H, W), True where the image is looked at."""
        height, width = inside.shape
        edges = np.flatnonzero(np.diff(~inside.ravel(), prepend=False, append=False))
        return cls(height, width, edges.astype("<i4").tobytes())

    @property
    def inside(self) -> Bools:
        """(H, W) bool, read-only: True where the image is looked at."""
        return _inside(self)

    @property
    def outside_px(self) -> int:
        """Number of pixels outside."""
        runs = np.frombuffer(self.runs, "<i4")
        return int((runs[1::2] - runs[::2]).sum())

    def to_text(self) -> str:
        """Serialise for an index file."""
        return f"{self.height} {self.width} {base64.b64encode(zlib.compress(self.runs)).decode()}"

    @classmethod
    def from_text(cls, text: str) -> Roi:
        """Read what `to_text` returned."""
        height, width, runs = text.split(" ")
        return cls(int(height), int(width), zlib.decompress(base64.b64decode(runs)))


@functools.lru_cache(maxsize=8)  # most lines have one region
def _inside(roi: Roi) -> Bools:
    steps = np.zeros(roi.height * roi.width + 1, np.int8)
    steps[np.frombuffer(roi.runs, "<i4")] = np.tile(np.array([1, -1], np.int8), len(roi.runs) // 8)
    inside: Bools = (np.cumsum(steps[:-1], dtype=np.int8) == 0).reshape(roi.height, roi.width)
    inside.flags.writeable = False
    return inside
