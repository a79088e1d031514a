"""YOLO segmentation: one text file per image, one line per region, in shares of the image's sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from raybench.report.annotations.item import CATEGORY, AnnotatedImage
from raybench.report.annotations.polygons import Region, keyhole, pixels
from raybench.report.annotations.streams import Add

# Readers cut off or round a coordinate to a pixel, then draw the outline's own pixels: this lands in the same for both.
_INTO_PIXEL = 0.25
_DATA = f"""train: images
val: images
names:
  0: {CATEGORY}
"""


@contextmanager
def yolo(folder: Path, name: str) -> Iterator[Add]:
    """`labels/*.txt` beside `images/`, and `data.yaml`. name: not used."""
    labels = folder / "labels"
    labels.mkdir()
    (folder / "data.yaml").write_text(_DATA, encoding="utf-8")

    def add(item: AnnotatedImage) -> None:
        lines = (f"0 {_polygon(item, region)}\n" for region in item.regions)
        with (labels / f"{item.stem}.txt").open("x", encoding="ascii") as file:
            file.writelines(lines)

    yield add


def _polygon(item: AnnotatedImage, region: Region) -> str:
    size = np.array([item.picture.width, item.picture.height])
    shares = (pixels(keyhole(region.rings)) + _INTO_PIXEL) / size
    return " ".join(f"{share:.7f}" for share in shares.ravel().tolist())
