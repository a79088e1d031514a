"""CVAT for images 1.1: polygons, and masks for regions with holes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from raybench.report.annotations.item import CATEGORY, AnnotatedImage
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
