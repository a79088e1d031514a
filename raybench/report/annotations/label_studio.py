"""Label Studio: tasks whose predictions are polygons, in percent of the image's sides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from raybench.errors import InputError
from raybench.report.annotations.item import CATEGORY, AnnotatedImage
from raybench.report.annotations.labelled import LabelledImage, LabelledRegion, Mask, field, inside
from raybench.report.annotations.polygons import Region, edges, keyhole
from raybench.report.annotations.streams import Add, json_array

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


def read_label_studio(file: Path) -> Iterator[LabelledImage]:
    """Yield the tasks that a person has annotated, of Label Studio's export as JSON; predictions are not labels.

    Of several annotations of a task, the one that was changed last counts.

    Raises:
        InputError: It is not such a file, or has masks of the brush: export those as PNG.
    """
    try:
        tasks = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    for number, task in enumerate(tasks if isinstance(tasks, list) else [tasks]):
        where = f"{file}: task {task.get('id', number)}"
        done = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
        if not done:
            continue
        last = max(done, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
        data = field(task, "data", dict, where)
        name = data.get("image_id") or unquote(field(data, "image", str, where))
        results = field(last, "result", list, where)
        choices = [choice for each in results for choice in each.get("value", {}).get("choices", ())]
        label = next((label for label in ("ok", "ng") if label in map(str.lower, choices)), None)
        regions = tuple(region for each in results for region in _regions(each, where))
        at = str(last.get("updated_at") or last.get("created_at") or "")
        yield LabelledImage(name, regions, label, by=_who(last.get("completed_by")), at=at)  # type: ignore[arg-type]


def _who(person: Any) -> str:
    """Return who completed an annotation: an e-mail address, or a number where the export has no more."""
    if isinstance(person, dict):
        person = person.get("email") or person.get("id")
    return "" if person is None else str(person)


def _regions(result: Any, where: str) -> Iterator[LabelledRegion]:
    kind, value = str(result.get("type", "")), result.get("value", {})
    if kind.startswith("brush"):
        raise InputError(
            f"{where} has a mask of the brush; export from Label Studio as PNG masks and import the folder"
        )
    if not kind.endswith("labels"):
        return
    category = str(next(iter(value.get(kind, ())), ""))
    if kind != "polygonlabels":
        yield LabelledRegion.of(category, None)
        return
    shares = np.asarray(field(value, "points", list, where), np.float64) / 100

    def draw(height: int, width: int) -> Mask:
        return inside(shares * (width, height), height, width)

    yield LabelledRegion.of(category, draw)
