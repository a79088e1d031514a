"""Regions of interest in a folder: the file `roi.png` for all of its images, and the folder `roi` with one for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from raybench.data.layouts.listing import Entry, SourceImage, SourceTree, is_image, stem
from raybench.data.mask_files import assign_masks
from raybench.errors import LineError

ROI = "roi"
WORD = "region of interest"
_FOR_ALL = ("mvtec", "folder", "csv")
"""Layouts that take a file at the root. In the others, a root holds several lines or images themselves."""
_FOR_EACH = ("mvtec", "folder")


def line_roi(tree: SourceTree, layout: str) -> str:
    """Return the key of the region of all images; empty without one. Raises LineError if there are several."""
    if layout not in _FOR_ALL:
        return ""
    found = sorted(key for key in tree.sizes if "/" not in key and stem(key).lower() == ROI and is_image(key))
    if len(found) > 1:
        raise LineError(f"{tree.store.uri()} has several regions of interest, {' and '.join(found)}; keep one of them")
    return next(iter(found), "")


def without_rois(tree: SourceTree, layout: str) -> tuple[SourceTree, list[str]]:
    """Return a folder without its regions of interest, and the keys of those in the folder `roi`."""
    if layout not in _FOR_EACH:
        return tree, []
    each = [key for key in tree.sizes if PurePosixPath(key).parts[0].lower() == ROI and "/" in key and is_image(key)]
    left_out = {line_roi(tree, layout), *each}
    return replace(tree, sizes={key: size for key, size in tree.sizes.items() if key not in left_out}), each


def with_rois(entries: Iterator[Entry], keys: Sequence[str]) -> Iterator[Entry]:
    """Give images the regions of interest that are named after them: by the path below `roi`, else by the name alone.

    Regions that fit no image are rejected.
    """
    if not keys:
        yield from entries
        return
    images, places = dict[str, SourceImage](), {key: stem(key.partition("/")[2]) for key in keys}
    for entry in entries:
        if isinstance(entry, SourceImage):
            images[entry.image_id] = entry
        else:
            yield entry
    paths = {image_id: stem(image_id) for image_id in images}
    by_path = assign_masks(paths, {key: (place,) for key, place in places.items()}, ROI, WORD)
    unused = {reject.path for reject in by_path.rejects if reject.reason == f"{ROI}_unused"}
    alone = {key: (places[key],) for key in unused if "/" not in places[key]}
    names = {image_id: path.rpartition("/")[2] for image_id, path in paths.items() if image_id not in by_path.keys}
    by_name = assign_masks(names, alone, ROI, WORD)
    yield from (reject for reject in by_path.rejects if reject.path not in alone)
    yield from by_name.rejects
    assigned: Mapping[str, tuple[str, ...]] = {**by_path.keys, **by_name.keys}
    for image_id, image in images.items():
        yield replace(image, roi_keys=assigned.get(image_id, ()))
