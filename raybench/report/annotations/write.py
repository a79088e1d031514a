"""Write annotation tasks to a folder: the images once, and beside them the files that each tool reads."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from raybench.data.decode import encode_mask
from raybench.errors import InputError, UnknownName
from raybench.report.annotations.coco import coco
from raybench.report.annotations.cvat import cvat
from raybench.report.annotations.item import Add, AnnotatedImage
from raybench.report.annotations.label_studio import label_studio
from raybench.report.annotations.yolo import yolo

WRITTEN = "written.sha256"


@contextmanager
def masks(folder: Path, name: str) -> Iterator[Add]:
    """`masks/*.png`, named as their images, in their size: 255 for anomalous pixels, else 0. name: not used."""
    target = folder / "masks"
    target.mkdir()

    def add(item: AnnotatedImage) -> None:
        with (target / f"{item.stem}.png").open("xb") as file:
            file.write(encode_mask(item.mask))

    yield add


FORMATS: Mapping[str, Callable[[Path, str], AbstractContextManager[Add]]] = {
    "coco": coco,
    "label-studio": label_studio,
    "cvat": cvat,
    "yolo": yolo,
    "masks": masks,
}


@dataclass(frozen=True)
class Written:
    """The files of one line."""

    folder: Path
    images: int
    """Number of images."""
    outlined: int
    """Number of images with a region."""
    regions: int
    """Number of regions on all images."""


def check_formats(formats: Collection[str]) -> None:
    """Raise UnknownName for a format that does not exist."""
    for name in formats:
        if name not in FORMATS:
            raise UnknownName("annotation format", name, FORMATS)


def write(
    items: Iterable[AnnotatedImage], folder: Path, formats: Collection[str], name: str, images: bool = True
) -> Written:
    """Write tasks in several formats. Memory does not grow with their number.

    Args:
        items: The tasks.
        folder: Local folder. It appears when everything is written.
        formats: Names of `FORMATS`.
        name: Name of the tasks in the annotation tools.
        images: Whether to write the images.

    Raises:
        InputError: The folder already exists.
        UnknownName: A format does not exist.
    """
    check_formats(formats)
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is already there, perhaps with annotations in it; name another folder with --to")
    folder.parent.mkdir(parents=True, exist_ok=True)
    outlined = regions = count = 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".annotate-") as aside:
        target = Path(aside) / folder.name
        target.mkdir()
        with ExitStack() as stack:
            writers = [stack.enter_context(FORMATS[format_](target, name)) for format_ in formats]
            writers.append(stack.enter_context(_images(target, images)))
            for count, item in enumerate(items, start=1):  # noqa: B007 (counted after the loop)
                outlined += bool(item.regions)
                regions += len(item.regions)
                for add in writers:
                    add(item)
        _note_digests(target)
        target.rename(folder)
    return Written(folder, count, outlined, regions)


def _note_digests(folder: Path) -> None:
    """Write `written.sha256`, by which files that nobody has worked on are known when labels come back."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "images")
    rows = (
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    )
    (folder / WRITTEN).write_text("".join(rows), encoding="utf-8")


@contextmanager
def _images(folder: Path, images: bool) -> Iterator[Add]:
    """`images/`, and `images.jsonl`, which says what each file was."""
    target = folder / "images"
    if images:
        target.mkdir()
    with (folder / "images.jsonl").open("x", encoding="utf-8") as index:

        def add(item: AnnotatedImage) -> None:
            index.write(json.dumps(_entry(item), allow_nan=False) + "\n")
            if images:
                with (target / item.file).open("xb") as file:
                    file.write(item.picture.data)

        yield add


def _entry(item: AnnotatedImage) -> dict[str, object]:
    task, picture = item.task, item.picture
    return {
        "file": item.file,
        "image_id": task.image_id,
        "line": task.line,
        "rank": task.rank,
        "label": task.label,
        "reason": task.reason,
        "signal": task.signal,
        "score": task.score,
        "model": item.model,
        "regions": len(item.regions),
        "height": picture.height,
        "width": picture.width,
        "original_bytes": picture.original,
    }
