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

from raybench.report.annotations.item import CATEGORY, AnnotatedImage
from raybench.report.annotations.polygons import Region, edges
from raybench.report.annotations.streams import Add, json_array, run_lengths

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
