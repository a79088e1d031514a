"""Lines: pack folders of images, open packed lines, and bring labels back to them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from raybench.data.line import Line
from raybench.data.manifest import Manifest, read_state
from raybench.data.roi_files import RoiFile
from raybench.data.source import add_from, name_of, pack_from
from raybench.errors import InputError, ObjectMissing
from raybench.report.annotations import read
from raybench.report.annotations.read import LabelImport
from raybench.report.progress import console_for, pack_bar
from raybench.store import Store, open_store

STORE, LAYOUT = "raybench-store", "auto"


def pack(
    source: str | Path,
    *,
    to: str | Path = STORE,
    name: str | None = None,
    layout: str = LAYOUT,
    roi: str | Path | None = None,
    add: bool = False,
    progress: bool = True,
) -> Line:
    """Pack a folder of images into Parquet shards, as a product line.

    Labels that came back to the line before are kept for images that are still the same files.

    Args:
        source: The folder: a path, s3:// or any fsspec URI.
        to: The store: a path or s3://bucket/prefix.
        name: The line's name. None: the last part of the folder's.
        layout: One of those that docs/data-layouts.md lists; auto looks for itself.
        roi: The region of interest of all images that have none of their own, an image: what is white is looked at, all
            else is ignored. None: `roi.png` in the folder, if there is one.
        add: Append images that a packed line does not hold yet; what it holds stays, and is not scored again.
        progress: Whether to show a bar.

    Raises:
        LineError: A bad name, an unknown layout, or no image or region of interest that can be used; with `add`, the
            line is not packed, or has another region of interest.
        InputError: There is no file `roi`.
    """
    images, lines = open_store(str(source)), open_store(str(to)).sub("lines")
    line = name or name_of(source)
    return Line(lines, pack_line(images, lines, line, layout, console_for(progress), add, read_roi(roi)))


def import_labels(
    line: Line | str,
    file: str | Path,
    *,
    empty: Literal["leave", "ok"] = "leave",
    by: str = "",
    representative: bool | None = None,
    rehearse: bool = False,
) -> LabelImport:
    """Give images of a line the labels and masks that people gave them in an annotation tool.

    Images are not written again. The next run judges what is scored by the new labels, and trains nothing unless labels
    of training images have changed.

    Args:
        line: A packed line, or its URI `<store>/lines/<line>`.
        file: A file of COCO, CVAT or Label Studio, a CSV file of decisions, or a folder of YOLO labels or PNG masks.
        empty: What an image without region and label is: "leave" leaves it as it is, "ok" labels it OK.
        by: Who labelled the images. Empty takes the tool's word, then the user who imports.
        representative: Whether the images were chosen without looking at them or at scores, such as every hundredth.
            Unlabelled images that somebody chose for their looks do not count in metrics. None leaves what was said
            before.
        rehearse: Only say what would change.

    Raises:
        InputError: The file cannot be read, or the line lies in a store of another run.
        LabelError: Some labels cannot be those of the line; all are named, and nothing is changed.
    """
    opened = line if isinstance(line, Line) else open_line(line)
    return read.import_labels(opened, Path(file), empty=empty, by=by, representative=representative, rehearse=rehearse)


def open_line(uri: str) -> Line:
    """Open a packed line by its URI `<store>/lines/<line>`, or an earlier state of it by `…/<line>@<state>`.

    Raises:
        InputError: It is not the URI of a line.
        LineError: The line is not packed there, or has no such state.
    """
    root, lines, name = uri.rstrip("/").rpartition("/lines/")
    if not lines:
        raise InputError(f"{uri!r} is not the URI of a line; write STORE/lines/NAME")
    name, _, state = name.partition("@")
    store = open_store(root).sub("lines")
    return Line(store, read_state(store, name, state), writable=False) if state else Line.open(store, name)


def pack_line(
    source: Store,
    lines: Store,
    line: str,
    layout: str,
    console: Console | None,
    add: bool = False,
    roi: RoiFile | None = None,
) -> Manifest:
    """Pack a folder as `line` of the store of lines, or add its new images, with a bar on `console`."""
    with pack_bar(line, console) as show:
        return (add_from if add else pack_from)(source, lines, line, layout, show, roi)


def read_roi(file: str | Path | None) -> RoiFile | None:
    """Read a region of interest: a path, s3:// or any fsspec URI. Raises InputError if it is not there."""
    if file is None:
        return None
    folder, separator, name = str(file).rpartition("/")
    try:
        return RoiFile(name, open_store(folder + separator if separator else ".").get(name))
    except ObjectMissing as error:
        raise InputError(f"there is no region of interest {file}") from error
