"""CVAT for images 1.1: polygons, and masks for regions with holes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

import numpy as np

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, AnnotatedImage
from raybench.report.annotations.labelled import Draw, LabelledImage, LabelledRegion, Mask, from_runs, polygon
from raybench.report.annotations.polygons import Region, edges
from raybench.report.annotations.streams import Add, run_lengths

NAME = "cvat.xml"
_COMMON = {"label": CATEGORY, "source": "auto", "occluded": "0", "z_order": "0"}


@contextmanager
def cvat(folder: Path, name: str) -> Iterator[Add]:
    """`cvat.xml`. name: of the task it describes. CVAT finds an image by its file name."""
    with (folder / NAME).open("x", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"{_text(_meta(name))}\n")

        def add(item: AnnotatedImage) -> None:
            file.write(f"{_text(_image(item))}\n")

        yield add
        file.write("</annotations>\n")


def _text(element: Element) -> str:
    return tostring(element, encoding="unicode")


def _meta(name: str) -> Element:
    meta = Element("meta")
    task = SubElement(meta, "task")
    SubElement(task, "name").text = name
    label = SubElement(SubElement(task, "labels"), "label")
    SubElement(label, "name").text = CATEGORY
    SubElement(label, "type").text = "any"
    SubElement(label, "attributes")
    return meta


def _image(item: AnnotatedImage) -> Element:
    picture = item.picture
    about = {
        "id": str(item.task.rank - 1),
        "name": item.file,
        "width": str(picture.width),
        "height": str(picture.height),
    }
    image = Element("image", about)
    for region in item.regions:
        image.append(_mask(region) if region.has_holes else _polygon(region))
    return image


def _polygon(region: Region) -> Element:
    points = ";".join(f"{x}.0,{y}.0" for x, y in edges(region.rings[0]).tolist())
    return Element("polygon", {**_COMMON, "points": points})


def _mask(region: Region) -> Element:
    """Run lengths row by row over the region's box."""
    left, top, width, height = (str(side) for side in region.box)
    counts = ", ".join(map(str, run_lengths(region.crop().ravel())))
    return Element("mask", {**_COMMON, "rle": counts, "left": left, "top": top, "width": width, "height": height})


def read_cvat(file: Path) -> Iterator[LabelledImage]:
    """Yield the images of a file in CVAT's format for images 1.1 with their regions; a tag `ok` or `ng` is a label.

    Raises:
        InputError: It is not such a file.
    """
    data = file.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise InputError(f"{file} declares entities, which CVAT does not: it is not read")
    try:
        root = fromstring(data)  # noqa: S314 (without declarations there is nothing to expand or to fetch)
    except ParseError as error:
        raise InputError(f"{file} is not XML: {error}") from error
    if root.tag != "annotations":
        raise InputError(f"{file} is not in CVAT's format for images 1.1: its root is <{root.tag}>")
    for image in root.iter("image"):
        name = image.get("name", "")
        regions = (LabelledRegion.of(each.get("label", ""), _drawing(each, f"{file}: {name}")) for each in image)
        tags = [each.get("label", "").lower() for each in image if each.tag == "tag"]
        label = next((label for label in ("ok", "ng") if label in tags), None)
        outlined = tuple(region for region, each in zip(regions, image, strict=True) if each.tag != "tag")
        yield LabelledImage(name, outlined, label)


def _drawing(shape: Element, where: str) -> Draw | None:
    try:
        if shape.tag == "polygon":
            return polygon([[float(side) for side in point.split(",")] for point in shape.get("points", "").split(";")])
        if shape.tag == "mask":
            left, top, width, height = (int(shape.get(side, "")) for side in ("left", "top", "width", "height"))
            counts = [int(count) for count in shape.get("rle", "").split(",")]
        else:
            return None
    except ValueError as error:
        raise InputError(f"{where}: a <{shape.tag}> has a coordinate that is no number") from error

    def draw(whole_height: int, whole_width: int) -> Mask:
        mask = np.zeros((whole_height, whole_width), np.bool_)
        if min(left, top) < 0 or top + height > whole_height or left + width > whole_width:
            raise InputError(f"{where}: a mask reaches beyond {whole_width} × {whole_height} pixels")
        mask[top : top + height, left : left + width] = from_runs(counts, height, width)
        return mask

    return draw
