"""Assign mask files to images by their names, as public data sets and annotation tools write them.

A mask of `cut/000.jpg` is `cut/000.png`, `cut/000_mask.png` (MVTec AD and AD 2, MPDD), `cut/000_label.bmp` or
`cut/000_GT.png` (Kolektor), `cut/000.bm.png` (BTAD), or all files of the folder `cut/000/` (MVTec LOCO).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from raybench.data.manifest import Reject

_SUFFIXES = ("_mask", "-mask", "_label", "_gt", ".bm")
_SUFFIXED, _SAME, _FOLDER = range(3)  # how a mask is named after its image, best first


@dataclass(frozen=True)
class AssignedMasks:
    """Which image each mask file belongs to."""

    keys: Mapping[str, tuple[str, ...]]
    """Keys of the mask files by image ID. Images without a mask are absent. Several files are parts of one mask."""
    rejects: tuple[Reject, ...]
    """Mask files that belong to no image, or may belong to several."""


def assign_masks(
    images: Mapping[str, str], masks: Mapping[str, Sequence[str]], kind: str = "mask", word: str = "mask"
) -> AssignedMasks:
    """Assign each mask to the one image that it is named after.

    Args:
        images: Place of each image by its ID: its path without the suffix, below the folders that images and masks do
            not share.
        masks: Places of each mask file by its key, likeliest first. Case is ignored.
        kind: First part of the reasons of rejects.
        word: What the files are, for messages.
    """
    image_ids = defaultdict[str, list[str]](list)
    for image_id, place in images.items():
        image_ids[place.casefold()].append(image_id)
    claims = defaultdict[str, defaultdict[int, list[str]]](lambda: defaultdict(list))
    rejects = []
    for key, places in masks.items():
        named = [pair for place in places for pair in _named_after(place.casefold())]
        found = next(((how, place) for how, place in named if place in image_ids), None)
        if found is None:
            rejects.append(Reject(key, f"{kind}_unused", f"no image has a name that this {word} fits"))
        else:
            claims[found[1]][found[0]].append(key)
    assigned = {}
    for place, by_naming in claims.items():
        best = min(by_naming)
        keys = tuple(sorted(by_naming.pop(best)))
        ids = sorted(image_ids[place])
        rejects += [
            Reject(key, f"{kind}_unused", f"{ids[0]} has the {word} {keys[0]} already")
            for others in by_naming.values()
            for key in others
        ]
        if len(ids) > 1:
            detail = f"fits {' and '.join(ids)}, and a {word} belongs to one image; rename one of them, and its {word}"
            rejects += [Reject(key, f"{kind}_ambiguous", detail) for key in keys]
        elif len(keys) > 1 and best != _FOLDER:
            detail = f"{' and '.join(keys)} fit {ids[0]}; keep one of them"
            rejects += [Reject(key, f"{kind}_ambiguous", detail) for key in keys]
        else:
            assigned[ids[0]] = keys
    return AssignedMasks(assigned, tuple(rejects))


def masks_beside_images(images: Mapping[str, str]) -> set[str]:
    """Return the IDs of files among images that are masks: `000_label.bmp` beside `000.jpg`.

    Args:
        images: Place of each file by its ID.
    """
    places = {place.casefold() for place in images.values()}
    return {
        image_id
        for image_id, place in images.items()
        if any(how == _SUFFIXED and named in places for how, named in _named_after(place.casefold()))
    }


def png_masks_of_jpegs(images: Mapping[str, str]) -> set[str]:
    """Return the IDs of PNG files that are masks of the JPEGs of the same stem beside them, as in Real-IAD.

    A folder counts only if each of its PNG files lies beside a JPEG of its stem.
    """
    jpegs = {place.casefold() for image_id, place in images.items() if image_id.lower().endswith((".jpg", ".jpeg"))}
    pngs = defaultdict[str, list[str]](list)
    for image_id in images:
        if image_id.lower().endswith(".png"):
            pngs[image_id.rpartition("/")[0]].append(image_id)
    return {
        image_id for ids in pngs.values() if all(images[each].casefold() in jpegs for each in ids) for image_id in ids
    }


def _named_after(place: str) -> Iterator[tuple[int, str]]:
    """Yield the places of images that a mask at `place` may be named after, best first."""
    for suffix in _SUFFIXES:
        if place.endswith(suffix) and not place.endswith("/" + suffix):
            yield _SUFFIXED, place.removesuffix(suffix)
    yield _SAME, place
    if folder := place.rpartition("/")[0]:
        yield _FOLDER, folder
