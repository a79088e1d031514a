"""One annotation task: a flagged image under a safe file name, and the regions that a model outlines on it.

Exports are written image by image, so that memory does not grow with them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

import cv2
import numpy as np
import numpy.typing as npt

from raybench.data.decode import decode_image
from raybench.data.header import UPRIGHT, open_header, orientation_of
from raybench.data.shards import ImageRow
from raybench.report.annotations.polygons import Region, regions

CATEGORY = "anomaly"
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "BMP": ".bmp"}
_PNG_DEPTH = 24  # the byte that says how many bits a channel has
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_LONGEST = 60


@dataclass(frozen=True)
class Task:
    """A flagged image."""

    rank: int
    """From 1, the most useful image of its line."""
    line: str
    image_id: str
    label: str
    score: float | None
    """Mean excess, see `analysis.flags`. None if it is not finite."""
    reason: str
    signal: str = ""
    """Type of the anomaly; empty if the image was not classified."""


@dataclass(frozen=True)
class SourcePicture:
    """An encoded image that every tool shows as raybench sees it."""

    data: bytes
    suffix: str
    """Of a file name, with the dot."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    original: bool
    """Whether `data` are the packed bytes."""

    @classmethod
    def of(cls, row: ImageRow, white_level: int, black_level: int = 0) -> SourcePicture:
        """Return the packed bytes, or a PNG of 8 bits if tools would show them differently.

        Tools differ on the orientation of an image with EXIF rotation, and browsers do not show TIFF and 16 bits well.
        """
        with open_header(row.image) as header:
            suffix = _SUFFIXES.get(header.format or "", "")
        deep = suffix == ".png" and row.image[_PNG_DEPTH] > 8
        if suffix and not deep and orientation_of(row.image) == UPRIGHT:
            return cls(row.image, suffix, row.height, row.width, True)
        pixels = decode_image(row.image, white_level, black_level)
        _, data = cv2.imencode(".png", pixels[..., ::-1])
        return cls(data.tobytes(), ".png", row.height, row.width, False)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """A task with its image and outlines."""

    task: Task
    picture: SourcePicture
    mask: npt.NDArray[np.bool_]
    """(H, W) bool: the pixels that `model` finds anomalous; all False without a heat map."""
    model: str
    """Empty without a heat map."""

    @functools.cached_property
    def regions(self) -> tuple[Region, ...]:
        return tuple(regions(self.mask))

    @functools.cached_property
    def stem(self) -> str:
        return safe_stem(self.task.rank, self.task.image_id)

    @property
    def file(self) -> str:
        """The image's name in the folder of images: sorted by name, the most useful comes first."""
        return self.stem + self.picture.suffix


def safe_stem(rank: int, image_id: str) -> str:
    """Return a file name without suffix that any file system accepts: `000007-test_bent_013-5f0c11d2`.

    The last 60 letters and digits of the ID are for people; the rank and a digest of the ID make the name unique.
    """
    words = _UNSAFE.sub("_", re.sub(r"\.[A-Za-z0-9]{1,5}$", "", image_id))[-_LONGEST:].strip("_") or "image"
    return f"{rank:06}-{words}-{hashlib.sha256(image_id.encode(errors='surrogatepass')).hexdigest()[:8]}"


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
