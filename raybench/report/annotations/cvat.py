"""CVAT for images 1.1: polygons, and masks for regions with holes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

import numpy as np

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, Add, AnnotatedImage
from raybench.report.annotations.labelled import (
    Draw,
    LabelledImage,
    LabelledRegion,
    Mask,
    from_runs,
    one_label,
    points_of,
    polygon,
)
from raybench.report.annotations.polygons import Region, edges, run_lengths

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
    try:
        text = file.read_bytes().decode("utf-8-sig")  # not as its declaration says, which could hide the next check
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text, as CVAT writes it: {error}") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{file} declares entities, which CVAT does not: it is not read")
    try:
        root = fromstring(text)  # noqa: S314 (without declarations there is nothing to expand or to fetch)
    except (ParseError, ValueError) as error:
        raise InputError(f"{file} is not XML: {error}") from error
    if root.tag != "annotations" or root.find("track") is not None:
        raise InputError(f"{file} is not in CVAT's format for images 1.1; export the task in this format")
    for image in root.iter("image"):
        name = image.get("name", "")
        where = f"{file}: {name}"
        regions = [
            LabelledRegion.of(each.get("label", ""), _drawing(each, where)) for each in image if each.tag != "tag"
        ]
        tags = [each.get("label", "") for each in image if each.tag == "tag"]
        yield LabelledImage(name, tuple(regions), one_label(tags, where), size=_size(image, where))


def _size(image: Element, where: str) -> tuple[int, int] | None:
    """Return the (height, width) of an image in pixels; None if the file does not say it."""
    if image.get("height") is None or image.get("width") is None:
        return None
    height, width = _whole_numbers(image, ("height", "width"), where)
    return height, width


def _whole_numbers(element: Element, names: Sequence[str], where: str) -> list[int]:
    try:
        return [int(element.get(name, "")) for name in names]
    except ValueError as error:
        raise InputError(f"{where}: {' and '.join(names)} of <{element.tag}> are no whole numbers") from error


def _drawing(shape: Element, where: str) -> Draw | None:
    if shape.tag == "polygon":
        return polygon(points_of([point.split(",") for point in shape.get("points", "").split(";")], where))
    if shape.tag != "mask":
        return None
    left, top, width, height = _whole_numbers(shape, ("left", "top", "width", "height"), where)
    try:
        counts = [int(count) for count in shape.get("rle", "").split(",")]
    except ValueError as error:
        raise InputError(f"{where}: a <mask> has a run length that is no number") from error

    def draw(whole_height: int, whole_width: int) -> Mask:
        mask = np.zeros((whole_height, whole_width), np.bool_)
        if min(left, top, width, height) < 0 or top + height > whole_height or left + width > whole_width:
            raise InputError(f"{where}: a mask reaches beyond {whole_width} × {whole_height} pixels")
        mask[top : top + height, left : left + width] = from_runs(counts, height, width)
        return mask

    return draw
