"""YOLO segmentation: one text file per image, one line per region, in shares of the image's sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import yaml

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, Add, AnnotatedImage
from raybench.report.annotations.labelled import Draw, LabelledImage, LabelledRegion, Mask, points_of
from raybench.report.annotations.polygons import Region, keyhole, pixels

# Readers cut off or round a coordinate to a pixel, then draw the outline's own pixels: this lands in the same for both.
_INTO_PIXEL = 0.25
_BEYOND = 0.05  # tools let outlines leave the image by a little
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


def read_yolo(folder: Path) -> Iterator[LabelledImage]:
    """Yield the images of a folder with `data.yaml` and `labels/*.txt`, with their regions. A box has no pixels.

    Raises:
        InputError: A file cannot be read.
    """
    try:
        names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8-sig"))["names"]
        categories = dict(enumerate(names)) if isinstance(names, list) else {int(key): names[key] for key in names}
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{folder / 'data.yaml'} does not name the categories of YOLO labels: {error}") from error
    files = sorted(file for file in folder.rglob("*.txt") if "labels" in file.relative_to(folder).parts[:-1])
    if not files:
        raise InputError(f"{folder} has a data.yaml and no label files in a folder `labels`")
    for file in files:
        try:
            lines = [line.split() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            regions = [
                LabelledRegion.of(str(categories[int(first)]), _drawing(rest, str(file))) for first, *rest in lines
            ]
        except (ValueError, KeyError) as error:
            raise InputError(f"{file} is not a YOLO label file: {error}") from error
        yield LabelledImage(file.stem, tuple(regions), file=file)


def _drawing(numbers: list[str], where: str) -> Draw | None:
    shares = points_of(list(zip(numbers[::2], numbers[1::2], strict=True)), where)
    if (np.abs(shares - 0.5) > 0.5 + _BEYOND).any():
        raise InputError(f"{where}: coordinates are not shares of the image's sides, from 0 to 1")
    if len(shares) < 3:  # a box: centre and size
        return None

    def draw(height: int, width: int) -> Mask:
        corners = np.clip(np.floor(shares * (width, height)), 0, (width - 1, height - 1)).astype(np.int32)
        canvas = np.zeros((height, width), np.uint8)
        cv2.fillPoly(canvas, [corners], 1)
        return canvas.astype(np.bool_)

    return draw
