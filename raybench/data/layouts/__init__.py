"""Layouts of image folders: how a file's path, or a table, gives its split, label, defect type and mask.

mvtec       train/good, test/good, test/<defect>, ground_truth/<defect>/<mask>
folder      ok (training images), ng or ng/<defect>, unlabelled; optional: test_ok, masks/<path of the image in ng>
csv         one .csv at the root: path, split (train, test, unlabelled), label (ok, ng); optional: mask, roi,
            defect_type, group (the part, panel or lot that several images show)
images      every image of the folder and its subfolders is unlabelled; never detected, only used if named
kolektor    KolektorSDD: kos01/Part5.jpg with its mask Part5_label.bmp
kolektor2   KolektorSDD2: train/10000.png with its mask 10000_GT.png, and test
visa        VisA: split_csv/1cls.csv beside a folder for each object
real-iad    Real-IAD: realiad_jsons/<object>.json beside folders of images such as realiad_1024/<object>

Names of folders may be upper or lower case. `mask_files` says how masks are named, `regions` where regions of interest
are.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TypeVar

from raybench.data.layouts import folders, public, regions, tables
from raybench.data.layouts.listing import SUFFIXES, Entry, FolderListing, SourceImage, SourceTree, is_image
from raybench.data.layouts.public import without_label
from raybench.data.manifest import PackFinding, Reject
from raybench.errors import LineError, UnknownName
from raybench.store import Store

__all__ = ["AUTO", "IMAGES", "SUFFIXES", "FolderListing", "SourceImage", "list_images", "without_label"]

AUTO, IMAGES = "auto", "images"
_READERS: Mapping[str, Callable[[SourceTree], Iterator[Entry]]] = {
    "mvtec": folders.read_mvtec,
    "folder": folders.read_folder,
    "csv": tables.read_csv,
    "kolektor": public.read_kolektor,
    "kolektor2": public.read_kolektor2,
    "visa": public.read_visa,
    "real-iad": public.read_real_iad,
    IMAGES: folders.read_images,
}
_Told = TypeVar("_Told", Reject, PackFinding)


def list_images(source: Store, layout: str = AUTO, line: str = "") -> FolderListing:
    """List the images of a folder.

    Args:
        source: The folder.
        layout: Name of the layout; AUTO chooses the one that fits.
        line: Name of the line. Where the folder holds several lines, it says which is meant.

    Raises:
        UnknownName: There is no layout of that name.
        LineError: No layout fits, or the folder does not hold the line.
    """
    if layout != AUTO and layout not in _READERS:
        raise UnknownName("layout", layout, (AUTO, *_READERS))
    tree = SourceTree(source, {item.key: item.size for item in source.list() if not _hidden(item.key)}, line)
    if layout == AUTO:
        layout = _detect(tree)
    items, rejects, findings = [], [], []
    unused = () if layout == IMAGES else tables.unused(tree, layout)
    roi_key = regions.line_roi(tree, layout)
    tree, rois = regions.without_rois(tree, layout)
    read = regions.with_rois(_READERS[layout](tree), rois)
    for entry in map(_with_safe_names, itertools.chain(read, unused)):
        if isinstance(entry, SourceImage):
            items.append(entry)
        elif isinstance(entry, Reject):
            rejects.append(entry)
        else:
            findings.append(entry)
    items.sort(key=lambda item: (item.split, item.image_id))
    return FolderListing(layout, tuple(items), _by_path(rejects), _by_path(findings), roi_key)


def _by_path(found: list[_Told]) -> tuple[_Told, ...]:
    return tuple(sorted(found, key=lambda one: one.path))


def _with_safe_names(entry: Entry) -> Entry:
    """Reject names with control characters or invalid UTF-8: names are shown in terminals, tables and reports."""
    if isinstance(entry, Reject):
        return Reject(_escape(entry.path), entry.reason, _escape(entry.detail))
    if isinstance(entry, PackFinding):
        return PackFinding(_escape(entry.path), entry.kind, _escape(entry.detail))
    for name in (entry.image_id, *entry.mask_keys, *entry.roi_keys, entry.defect_type, entry.group):
        if _escape(name) != name:
            detail = f"{_escape(name)} holds control characters, or bytes that are not UTF-8; rename it"
            return Reject(_escape(entry.image_id), "bad_name", detail)
    return entry


def _escape(name: str) -> str:
    """Replace control characters and lone surrogates (bytes that are not UTF-8) by backslash escapes."""
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in name
    )


def _detect(tree: SourceTree) -> str:
    if tables.tables_of(tree):
        return "csv"
    # train/good and ok are in no public data set; a stray mask or listing beside them decides nothing.
    if layout := folders.detect(tree.sizes) or public.detect(tree.sizes):
        return layout
    tops = {PurePosixPath(key).parts[0] for key in tree.sizes}
    found = ", ".join(sorted(tops)[:10]) or "nothing"
    raise LineError(
        f"{tree.store.uri()}: no known layout. Looked for train/good (mvtec), ok (folder), or a .csv with a `path` "
        f"column (csv); found {found}{_remedy(tree)}"
    )


def _remedy(tree: SourceTree) -> str:
    """Say what makes a folder without a known layout one with it."""
    below: dict[str, list[str]] = {}
    for key in tree.sizes:
        top, _, rest = key.partition("/")
        below.setdefault(top, []).append(rest)
    lines = {top: layout for top, keys in sorted(below.items()) if (layout := folders.detect(keys))}
    if lines:
        top, layout = next(iter(lines.items()))
        more = f", and so do {len(lines) - 1} more folders" if len(lines) > 1 else ""
        return f". {top} looks like a line of the layout {layout}{more}: pack {tree.store.uri(top)}"
    train = next((top for top in below if top.lower() == "train"), None)
    if train and any("/" not in rest and is_image(rest) for rest in below[train]):
        return f". Move the OK images of {train} into {train}/good"
    if train:
        inner = sorted({rest.partition("/")[0] for rest in below[train] if "/" in rest})
        return f". Rename the folder of OK images in {train} to {train}/good; it holds {', '.join(inner[:10])}"
    if any(is_image(rest) for rests in below.values() for rest in rests):
        return ". Rename the folder of OK images to train on to ok"
    return ". Put the OK images to train on into a folder named ok" if any(map(is_image, below)) else ""


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(key).parts)
