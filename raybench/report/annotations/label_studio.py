"""Label Studio: tasks whose predictions are polygons, in percent of the image's sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, Add, AnnotatedImage, json_array
from raybench.report.annotations.labelled import (
    Draw,
    LabelledImage,
    LabelledRegion,
    Mask,
    field,
    inside,
    one_label,
    optional,
    points_of,
)
from raybench.report.annotations.polygons import Region, edges, keyhole

TASKS, CONFIG = "label_studio.json", "label_studio_config.xml"
_DECIMALS = 5  # of a percent: below a hundredth of a pixel on the widest image
_CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <PolygonLabels name="region" toName="image" strokeWidth="2">
    <Label value="{CATEGORY}"/>
  </PolygonLabels>
  <Choices name="verdict" toName="image" choice="single" showInline="true">
    <Choice value="ok"/>
    <Choice value="ng"/>
  </Choices>
</View>
"""


@contextmanager
def label_studio(folder: Path, name: str) -> Iterator[Add]:
    """`label_studio.json` to import and `label_studio_config.xml` to set up the project with. name: not used.

    Images are named as Label Studio's local storage serves them, with the parent of `folder` as document root.
    """
    (folder / CONFIG).write_text(_CONFIG, encoding="utf-8")
    with (folder / TASKS).open("x", encoding="utf-8") as file:
        with json_array(file) as add_task:
            yield lambda item: add_task(_task(item, folder.name))
        file.write("\n")


def _task(item: AnnotatedImage, folder: str) -> dict[str, Any]:
    task = item.task
    data = {
        "image": f"/data/local-files/?d={quote(f'{folder}/images/{item.file}')}",
        "image_id": task.image_id,
        "line": task.line,
        "label": task.label,
        "reason": task.reason,
        "signal": task.signal,
        "rank": task.rank,
        "excess": task.score,
    }
    prediction = {
        "model_version": item.model,
        "score": _share(task.score),
        "result": [_result(item, region, number) for number, region in enumerate(item.regions, start=1)],
    }
    return {"data": data, "predictions": [prediction]} if item.model else {"data": data}


def _share(excess: float | None) -> float:
    """From 0 to 1, as Label Studio wants a score: 0 at the threshold and below, 0.5 at an excess of 1."""
    above = max(excess or 0.0, 0.0)
    return above / (1 + above)


def _result(item: AnnotatedImage, region: Region, number: int) -> dict[str, Any]:
    height, width = item.picture.height, item.picture.width
    percent = edges(keyhole(region.rings)) * np.array([100 / width, 100 / height])
    return {
        "id": f"r{item.task.rank}-{number}",
        "from_name": "region",
        "to_name": "image",
        "type": "polygonlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"points": percent.round(_DECIMALS).tolist(), "polygonlabels": [CATEGORY], "closed": True},
    }


def read_label_studio(file: Path, tasks: list[Any]) -> Iterator[LabelledImage]:
    """Yield the tasks that a person has annotated, of Label Studio's export as JSON; predictions are not labels.

    Of several annotations of a task, the one that was changed last counts. Of a skipped task the person is unsure.

    Args:
        file: The file, for messages.
        tasks: Its JSON.

    Raises:
        InputError: It is not such a file, or has masks of the brush, or regions on an image that was turned.
    """
    for number, task in enumerate(tasks):
        where = f"{file}: task {number}"
        data = field(task, "data", dict, where)
        if "annotations" not in task and "predictions" not in task and "completions" in task:
            raise InputError(f"{where} is of a Label Studio before 1.0; export it with a newer one")
        annotations = optional(task, "annotations", list, where) or []
        if not annotations:
            continue
        done = [each for each in annotations if not optional(each, "was_cancelled", bool, where)]
        last = max(done or annotations, key=lambda each: _changed_at(each, where))
        results = [_Result.of(each, where) for each in field(last, "result", list, where)] if done else []
        choices = [choice for each in results for choice in each.choices]
        yield LabelledImage(
            name=optional(data, "image_id", str, where) or _file_of(field(data, "image", str, where)),
            regions=tuple(_regions(results, where)),
            label=one_label(choices, where),
            by=_who(last.get("completed_by")),
            at=_changed_at(last, where),
            is_unsure=not done,
        )


def _changed_at(annotation: Any, where: str) -> str:
    found = optional(annotation, "updated_at", str, where) or optional(annotation, "created_at", str, where)
    return found or ""


def _file_of(address: str) -> str:
    """Return the path of an image from the address at which Label Studio serves it."""
    return unquote(address).rpartition("/data/local-files/?d=")[2]


def _who(person: Any) -> str:
    """Return who completed an annotation: an e-mail address, or a number where the export has no more."""
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return "" if person is None else str(person)


@dataclass(frozen=True)
class _Result:
    """An entry of an annotation. A region has several where its shape and its labels are drawn with two tools."""

    number: str
    """Which region it belongs to."""
    kind: str
    """As `polygonlabels`, `choices`, or `rectangle` for a shape without label."""
    value: Mapping[str, Any]
    """What was drawn or chosen."""
    size: tuple[int, int] | None
    """(height, width) of the image in pixels."""

    @classmethod
    def of(cls, record: Any, where: str) -> _Result:
        kind, value = field(record, "type", str, where), optional(record, "value", dict, where) or {}
        if optional(record, "image_rotation", int, where):
            raise InputError(f"{where}: the image was turned in Label Studio; turn it back and export again")
        if kind.startswith(("brush", "bitmask")):
            raise InputError(
                f"{where} has a mask of the brush; export from Label Studio as `Brush labels to COCO`, or outline it"
            )
        sides = optional(record, "original_height", int, where), optional(record, "original_width", int, where)
        number = optional(record, "id", str, where) or ""
        return cls(number, kind, value, None if None in sides else sides)

    @property
    def is_shape(self) -> bool:
        """Whether it is a region, or belongs to one."""
        return bool(self.value.keys() & {"points", "x", "vertices"})

    @property
    def choices(self) -> list[str]:
        """What was chosen for the whole image."""
        found = self.value.get("choices")
        return [str(choice) for choice in found] if isinstance(found, list) and not self.is_shape else []

    def category(self) -> str:
        """Return the label of the region, empty if there is none."""
        found = self.value.get(self.kind) if self.kind.endswith("labels") else None
        return str(found[0]) if isinstance(found, list) and found else ""


def _regions(results: Sequence[_Result], where: str) -> Iterator[LabelledRegion]:
    parts: dict[str, list[_Result]] = {}
    for index, each in enumerate(results):
        if each.is_shape:
            parts.setdefault(each.number or str(index), []).append(each)
    for region in parts.values():
        category = next(filter(None, (each.category() for each in region)), "")
        outline = next((each for each in region if each.kind in ("polygon", "polygonlabels")), None)
        yield LabelledRegion.of(category, _drawing(outline, where) if outline else None)


def _drawing(result: _Result, where: str) -> Draw:
    shares = points_of(field(result.value, "points", list, where), where) / 100

    def draw(height: int, width: int) -> Mask:
        if result.size and abs(result.size[0] * width - result.size[1] * height) > height + width:
            raise InputError(
                f"outlined on {result.size[1]} × {result.size[0]} pixels, the packed image has {width} × {height}"
            )
        return inside(shares * (width, height), height, width)

    return draw
