"""Made masks and annotation work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from raybench.report.annotations.item import AnnotatedImage, SourcePicture, Task
from raybench.report.annotations.write import write

Mask = npt.NDArray[np.bool_]


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Blobs, thin cracks, frames with holes and specks, over the border too; at least one pixel."""
    height, width = draw(st.integers(2, 90)), draw(st.integers(2, 90))
    canvas = np.zeros((height, width), np.uint8)
    spots = st.tuples(st.integers(-5, width + 5), st.integers(-5, height + 5))
    for kind in draw(st.lists(st.sampled_from(("blob", "crack", "frame", "specks", "hole")), min_size=1, max_size=5)):
        here, there, size = draw(spots), draw(spots), draw(st.integers(1, 25))
        if kind == "blob":
            cv2.ellipse(canvas, here, (size, 1 + size // 3), float(draw(st.integers(0, 180))), 0.0, 360.0, 1, -1)
        elif kind == "crack":
            cv2.line(canvas, here, there, 1, draw(st.integers(1, 2)))
        elif kind == "frame":
            cv2.circle(canvas, here, size, 1, draw(st.integers(1, 3)))
        elif kind == "hole":
            cv2.circle(canvas, here, size // 3, 0, -1)
        else:
            share = draw(st.sampled_from((0.02, 0.5, 0.9)))
            canvas[np.random.default_rng(size).random(canvas.shape) < share] = 1
    if not canvas.any():
        canvas[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1
    return canvas.astype(np.bool_)


@st.composite
def rois(draw: st.DrawFn) -> Mask:
    """Regions of interest: what `masks` draws, or all else but at least one pixel."""
    mask = draw(masks())
    if draw(st.booleans()) and not mask.all():
        return ~mask
    return mask


def item(
    mask: Mask, rank: int = 1, image_id: str = "test/scratch/001.png", score: float | None = 1.5
) -> AnnotatedImage:
    height, width = mask.shape
    _, data = cv2.imencode(".png", np.full((height, width, 3), 90, np.uint8))
    picture = SourcePicture(data.tobytes(), ".png", height, width, True)
    return AnnotatedImage(Task(rank, "strip", image_id, "unknown", score, "likely a defect"), picture, mask, "padim")


def exported(found: Iterable[Mask], folder: Path, *formats: str) -> list[AnnotatedImage]:
    """The masks written to `folder`/strip, an image each."""
    items = [item(mask, rank, f"{rank}.png") for rank, mask in enumerate(found, start=1)]
    write(items, folder / "strip", formats, "night: strip")
    return items


def iou(found: Mask, wanted: Mask) -> float:
    return float((found & wanted).sum() / (found | wanted).sum())


def union(found: Iterable[npt.NDArray[np.uint8] | Mask], shape: tuple[int, ...]) -> Mask:
    whole = np.zeros(shape, np.bool_)
    for mask in found:
        whole |= mask.astype(np.bool_)
    return whole


def stems(items: Iterable[AnnotatedImage]) -> Iterator[str]:
    yield from (each.stem for each in items)
