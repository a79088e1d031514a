"""Where a packed line comes from: `<line>/source.json`, written after the manifest.

It lets a line be packed again only when its images have changed. A manifest does not hold it: the same images are the
same line, wherever they were read from.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError

from raybench.data.manifest import Manifest, read_manifest
from raybench.data.pack import PackOptions, Progress, add, pack
from raybench.data.roi_files import RoiFile
from raybench.errors import LineError, ObjectMissing
from raybench.store import Store

NAME_CHARS = 100
# Version 1 laid masks on images of the same name whatever their label, and read every value above 0 as defective.
# Version 2 ignored the column `group` of a table.
# Version 3 took the first of rows that contradict each other, and images in `test` itself for NG ones.
# Version 4 ignored the further columns of a table.
# Version 5 ignored regions of interest.
PACKING_VERSION = 6


@dataclass(frozen=True)
class LineSource:
    """The folder that a line was packed from."""

    uri: str
    layout: str
    """The layout that was asked for, `auto` included."""
    listing: str
    """See `listing_digest`."""
    packing: int = 1
    """`PACKING_VERSION` of the raybench that packed it."""
    roi: str = ""
    """SHA-256 (hex) of the region of interest that was named beside the folder. Empty if none was."""


_ADAPTER = TypeAdapter(LineSource)


def listing_digest(source: Store) -> str:
    """Return the SHA-256 (hex) over names, sizes and stamps of a folder's files.

    Empty where the store gives no stamps: nobody can say then whether the files are still the same.
    """
    sha256 = hashlib.sha256()
    for item in source.list():
        if not item.stamp:
            return ""
        sha256.update(f"{item.key}\0{item.size}\0{item.stamp}\n".encode(errors="surrogatepass"))
    return sha256.hexdigest()


def pack_from(
    source: Store,
    lines: Store,
    line: str,
    layout: str,
    progress: Callable[[Progress], None] = lambda now: None,
    roi: RoiFile | None = None,
) -> Manifest:
    """Pack the images of `source` as `line`, and record where they come from.

    Args:
        source: The image folder.
        lines: The store of lines.
        line: Name of the line.
        layout: Name of a layout.
        progress: Called after each packed image.
        roi: The region of interest of all images that have none of their own. None takes the folder's.

    Raises:
        LineError: A bad name, an unknown layout, or no image or region of interest that can be used.
    """
    named = hashlib.sha256(roi.data).hexdigest() if roi else ""
    packed = LineSource(source.uri(), layout, listing_digest(source), PACKING_VERSION, named)
    manifest = pack(source, lines, line, PackOptions(layout=layout, roi=roi), progress)
    lines.put(source_key(line), _ADAPTER.dump_json(packed, indent=1) + b"\n")
    return manifest


def add_from(
    source: Store,
    lines: Store,
    line: str,
    layout: str,
    progress: Callable[[Progress], None] = lambda now: None,
    roi: RoiFile | None = None,
) -> Manifest:
    """Append the new images of `source` to `line`; where it was packed from there, record what has been read now.

    Raises:
        LineError: The line is not packed, no layout fits, or `roi` is another region of interest than the line's.
        LabelError: The line was changed at the same time.
    """
    before, listing = read_source(lines, line), listing_digest(source)
    manifest = add(source, lines, line, PackOptions(layout=layout, roi=roi), progress)
    if before and before.uri == source.uri():
        lines.put(source_key(line), _ADAPTER.dump_json(replace(before, listing=listing), indent=1) + b"\n")
    return manifest


def pack_if_changed(
    source: Store,
    lines: Store,
    line: str,
    layout: str,
    progress: Callable[[Progress], None] = lambda now: None,
) -> Manifest:
    """Return the manifest of `line`, packed from `source` unless that has happened and nothing has changed since.

    A line is packed again when a file has changed, and when this version reads folders otherwise.

    Raises:
        LineError: As `pack_from`, where the line was packed from another folder, and where its images have changed
            since it was packed with a region of interest that is not in the folder.
    """
    before = read_source(lines, line)
    if before and before.uri != source.uri():
        raise LineError(
            f"{lines.uri(line)} was packed from {before.uri}; pack {source.uri()} under another name, or into another "
            "store"
        )
    now = LineSource(source.uri(), layout, listing_digest(source), PACKING_VERSION, before.roi if before else "")
    if before and before.listing and before == now:
        return read_manifest(lines, line)
    if now.roi:
        raise LineError(
            f"the images of {line} have changed since it was packed, with a region of interest that is not among them; "
            f"pack it again: raybench pack {source.uri()} --line {line} --roi FILE --to …"
        )
    return pack_from(source, lines, line, layout, progress)


def read_source(lines: Store, line: str) -> LineSource | None:
    """Return what the line was packed from; None where that is not known."""
    try:
        return _ADAPTER.validate_json(lines.get(source_key(line)))
    except (ObjectMissing, ValidationError):
        return None


def source_key(line: str) -> str:
    return f"{line}/source.json"


def name_of(source: str | Path) -> str:
    """Return a name made of the last part of a folder's path or URI; a linked folder keeps the name of the link."""
    scheme, separator, path = str(source).partition("://")
    if not separator:
        return plain_name(Path(os.path.normpath(Path(source).absolute())).name)
    last = path.rstrip("/").rpartition("/")[2]
    return plain_name(unquote(last) if scheme == "file" else last)


def plain_name(text: str) -> str:
    """Return `text` as a name of letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:NAME_CHARS] or "images"
