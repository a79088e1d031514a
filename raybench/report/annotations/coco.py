"""COCO's JSON: polygons, and run lengths for regions with holes, which its polygons cannot have."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, Add, AnnotatedImage, json_array
from raybench.report.annotations.labelled import (
    Draw,
    LabelledImage,
    LabelledRegion,
    Mask,
    field,
    from_runs,
    optional,
    points_of,
    polygon,
)
from raybench.report.annotations.polygons import Region, edges, run_lengths

NAME = "coco.json"


@contextmanager
def coco(folder: Path, name: str) -> Iterator[Add]:
    """`coco.json`: an image per task, an annotation per region. name: what the file says it is."""
    numbers = itertools.count(1)
    with (
        (folder / NAME).open("x", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder) as beside,
    ):
        file.write(f'{{"info": {json.dumps({"description": name})},\n')
        file.write(f'"categories": {json.dumps([{"id": 1, "name": CATEGORY, "supercategory": ""}])},\n"images": ')
        with json_array(file) as add_image, json_array(beside) as add_annotation:

            def add(item: AnnotatedImage) -> None:
                add_image(_image(item))
                for region in item.regions:
                    add_annotation({"id": next(numbers)} | _annotation(item, region))

            yield add
        file.write(',\n"annotations": ')
        beside.seek(0)
        shutil.copyfileobj(beside, file)
        file.write("}\n")


def _image(item: AnnotatedImage) -> dict[str, Any]:
    task, picture = item.task, item.picture
    return {
        "id": task.rank,
        "file_name": item.file,
        "height": picture.height,
        "width": picture.width,
        "source_id": task.image_id,
        "label": task.label,
        "reason": task.reason,
        "signal": task.signal,
    }


def _annotation(item: AnnotatedImage, region: Region) -> dict[str, Any]:
    return {
        "image_id": item.task.rank,
        "category_id": 1,
        "segmentation": _run_lengths(item, region) if region.has_holes else [edges(region.rings[0]).ravel().tolist()],
        "area": int(region.crop().sum()),
        "bbox": list(region.box),
        "iscrowd": 0,
        "model": item.model,
    }


def _run_lengths(item: AnnotatedImage, region: Region) -> dict[str, Any]:
    """Column by column over the whole image, not compressed."""
    left, top, width, height = region.box
    whole_height, whole_width = item.mask.shape
    columns = np.zeros((whole_height, width), np.bool_)
    columns[top : top + height] = region.crop()
    counts = run_lengths(columns.ravel(order="F"))
    counts[0] += left * whole_height
    after = (whole_width - left - width) * whole_height
    if len(counts) % 2:
        counts[-1] += after
    elif after:
        counts.append(after)
    return {"size": [whole_height, whole_width], "counts": counts}


def read_coco(file: Path, content: Any) -> Iterator[LabelledImage]:
    """Yield the images of a COCO file with their regions; of one that raybench wrote, by their IDs.

    Args:
        file: The file, for messages.
        content: Its JSON.

    Raises:
        InputError: It is not a COCO file.
    """
    names = _unique(optional(content, "categories", list, str(file)) or [], f"{file}: categories")
    images = _unique(field(content, "images", list, str(file)), f"{file}: images")
    regions: dict[int, list[LabelledRegion]] = {number: [] for number in images}
    for number, each in enumerate(field(content, "annotations", list, str(file))):
        where = f"{file}: annotation {number}"
        image, kind = field(each, "image_id", int, where), field(each, "category_id", int, where)
        if image not in images or kind not in names:
            raise InputError(f"{where} is of the image {image} and the category {kind}, and one of them is not there")
        category = optional(names[kind], "name", str, where) or ""
        regions[image].append(LabelledRegion.of(category, _drawing(each.get("segmentation"), where)))
    for number, each in images.items():
        where = f"{file}: image {number}"
        name = optional(each, "source_id", str, where) or field(each, "file_name", str, where)
        sides = optional(each, "height", int, where), optional(each, "width", int, where)
        size = None if None in sides else sides
        yield LabelledImage(name, tuple(regions[number]), size=size)


def _unique(records: list[Any], where: str) -> dict[int, Any]:
    """Return records by their ID. Raises InputError when two have the same."""
    by_id = {field(each, "id", int, where): each for each in records}
    if len(by_id) < len(records):
        raise InputError(f"{where}: two have the same 'id'")
    return by_id


def _drawing(segmentation: Any, where: str) -> Draw | None:
    if isinstance(segmentation, dict):
        size, counts = field(segmentation, "size", list, where), segmentation.get("counts")
        lengths = _decompressed(counts) if isinstance(counts, str) else field(segmentation, "counts", list, where)

        def runs(height: int, width: int) -> Mask:
            if size != [height, width]:
                raise InputError(f"{where} is on {size[1:]} × {size[:1]} pixels, the image has {width} × {height}")
            return from_runs(lengths, width, height).T

        return runs
    if segmentation is not None and not isinstance(segmentation, list):
        raise InputError(f"{where}: 'segmentation' is neither a list nor run lengths")
    drawn = []
    for ring in segmentation or ():
        if not isinstance(ring, list) or len(ring) % 2:
            raise InputError(f"{where}: an outline is not a list of x and y in turn")
        drawn.append(polygon(points_of(list(zip(ring[::2], ring[1::2], strict=True)), where)))
    return (lambda height, width: np.logical_or.reduce([draw(height, width) for draw in drawn])) if drawn else None


def _decompressed(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed form, see `rleFrString` in pycocotools' maskApi.c.

    A length is the difference to the one before the last, in groups of five bits, the lowest first.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode(errors="replace"):
        group = character - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & 0x20:
            if group & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
