"""One piece of annotation work: a flagged image under a safe name, and what a model outlines on it."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass

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
    """A row of the flags. rank: from 1, the most useful image of its line. score: the flag's, where it has one;
    see `analysis.flags`. signal: what it looks like, empty where nobody looked."""

    rank: int
    line: str
    image_id: str
    label: str
    score: float | None
    reason: str
    signal: str = ""


@dataclass(frozen=True)
class SourcePicture:
    """data: an encoded image that every tool shows as raybench sees it. height, width: pixels. original: whether
    `data` are the bytes that were packed."""

    data: bytes
    suffix: str
    height: int
    width: int
    original: bool

    @classmethod
    def of(cls, row: ImageRow, white_level: int) -> SourcePicture:
        """The packed bytes where they will do. An image that EXIF turns, a TIFF and one of 16 bits become PNG of 8
        bits: tools differ on which way up the first is, and browsers show neither of the others well."""
        with open_header(row.image) as header:
            suffix = _SUFFIXES.get(header.format or "", "")
        deep = suffix == ".png" and row.image[_PNG_DEPTH] > 8
        if suffix and not deep and orientation_of(row.image) == UPRIGHT:
            return cls(row.image, suffix, row.height, row.width, True)
        pixels = decode_image(row.image, white_level)
        _, data = cv2.imencode(".png", pixels[..., ::-1])
        return cls(data.tobytes(), ".png", row.height, row.width, False)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """mask: (H, W) bool, what `model` says is anomalous; all False, and `model` empty, without a heat map."""

    task: Task
    picture: SourcePicture
    mask: npt.NDArray[np.bool_]
    model: str

    @functools.cached_property
    def regions(self) -> tuple[Region, ...]:
        return tuple(regions(self.mask))

    @property
    def stem(self) -> str:
        return safe_stem(self.task.rank, self.task.image_id)

    @property
    def file(self) -> str:
        """The image's name in the folder of images: sorted by name, the most useful comes first."""
        return self.stem + self.picture.suffix


def safe_stem(rank: int, image_id: str) -> str:
    """A file name without its suffix that any file system takes: `000007-test_bent_013-5f0c11d2`.

    The id's letters and digits (the last 60) are for people, the rank and a digest of the id tell names apart.
    """
    words = _UNSAFE.sub("_", re.sub(r"\.[A-Za-z0-9]{1,5}$", "", image_id))[-_LONGEST:].strip("_") or "image"
    return f"{rank:06}-{words}-{hashlib.sha256(image_id.encode(errors='surrogatepass')).hexdigest()[:8]}"
