"""Layouts of image folders: how a file's path, or a table, gives its split, label, defect type and mask.

mvtec    train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png (or <stem>.png)
folder   ok (training images), ng or ng/<defect>, unlabelled; optional: test_ok, masks/<same path as in ng>
csv      one .csv at the root: path, split (train, test, unlabelled), label (ok, ng); optional: mask, defect_type
images   every image of the folder and its subfolders is unlabelled; never detected, only used if named
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from raybench.data.manifest import Label, Reject, Split
from raybench.errors import LineError, RejectedImage, UnknownName
from raybench.store import Store

AUTO, IMAGES = "auto", "images"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_NOT_IMAGES = frozenset({".txt", ".json", ".md", ".csv", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf", ""})
_EXTRA = ""  # key of the cells beyond the last column of a row
_LABELS: Mapping[str, Label] = {
    "ok": "ok",
    "good": "ok",
    "normal": "ok",
    "ng": "ng",
    "defect": "ng",
    "anomaly": "ng",
    "bad": "ng",
}
_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "test": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}
_FOLDERS: Mapping[str, tuple[Split, Label]] = {
    "ok": ("train", "ok"),
    "test_ok": ("test", "ok"),
    "ng": ("test", "ng"),
    "unlabelled": ("unlabelled", "unknown"),
    "unlabeled": ("unlabelled", "unknown"),
}


@dataclass(frozen=True)
class SourceImage:
    """One image to pack."""

    image_id: str
    """Its key in the source, so unique in its line."""
    split: Split
    label: Label
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    mask_key: str | None
    """Key of its mask in the source. None without a mask."""
    size: int
    """Bytes of the image file."""


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder, read by its layout."""

    layout: str
    """Name of the layout that was used, never `auto`."""
    items: tuple[SourceImage, ...]
    """Sorted by split, then by image ID."""
    rejects: tuple[Reject, ...]
    """Files that cannot be used. Sorted by path."""


Sizes = Mapping[str, int]
_Reader = Callable[[Store, Sizes], Iterator[SourceImage | Reject]]


def list_images(source: Store, layout: str = AUTO) -> FolderListing:
    """List the images of `source` by the layout of that name, or by the one that fits.

    Raises:
        UnknownName: There is no layout of that name.
        LineError: No layout fits.
    """
    if layout != AUTO and layout not in _READERS:
        raise UnknownName("layout", layout, (AUTO, *_READERS))
    sizes = {item.key: item.size for item in source.list() if not _hidden(item.key)}
    if layout == AUTO:
        layout = _detect(source, sizes)
    items, rejects = [], []
    for entry in map(_reject_bad_name, _READERS[layout](source, sizes)):
        if isinstance(entry, Reject):
            rejects.append(entry)
        else:
            items.append(entry)
    items.sort(key=lambda item: (item.split, item.image_id))
    return FolderListing(layout, tuple(items), tuple(sorted(rejects, key=lambda reject: reject.path)))


def _reject_bad_name(entry: SourceImage | Reject) -> SourceImage | Reject:
    """Reject names with control characters or invalid UTF-8: names are shown in terminals, tables and reports."""
    if isinstance(entry, Reject):
        return Reject(_escape(entry.path), entry.reason, _escape(entry.detail))
    for name in (entry.image_id, entry.mask_key or "", entry.defect_type):
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


def _detect(source: Store, sizes: Sizes) -> str:
    tops = {PurePosixPath(key).parts[0] for key in sizes}
    if _tables(source, sizes):
        return "csv"
    if any(key.startswith("train/good/") for key in sizes):
        return "mvtec"
    if "ok" in tops:
        return "folder"
    found = ", ".join(sorted(tops)[:10]) or "nothing"
    raise LineError(
        f"{source.uri()}: no known layout. Looked for train/good (mvtec), ok (folder), or a .csv with a `path` column "
        f"(csv); found {found}"
    )


def _mvtec(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    masks = {key.rpartition(".")[0]: key for key in sizes if key.startswith("ground_truth/")}
    for key, size in sizes.items():
        top, _, rest = key.partition("/")
        kind = rest.partition("/")[0]
        if top == "ground_truth" or not _is_image(key):
            yield from _reject_other_file(key, top in ("train", "test", "ground_truth"))
        elif top == "test" or (top == "train" and kind == "good"):
            split: Split = "test" if top == "test" else "train"
            label: Label = "ok" if kind == "good" else "ng"
            stem = rest.rpartition(".")[0]
            mask = masks.get(f"ground_truth/{stem}_mask") or masks.get(f"ground_truth/{stem}")
            yield SourceImage(key, split, label, "" if label == "ok" else kind, mask, size)
        else:
            yield _reject_outside(key, "train/good or test/<type>")


def _folder(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    masks = {key.rpartition(".")[0]: key for key in sizes if key.startswith("masks/")}
    for key, size in sizes.items():
        top, _, rest = key.partition("/")
        if top == "masks" or not _is_image(key):
            yield from _reject_other_file(key, top in _FOLDERS or top == "masks")
        elif top in _FOLDERS:
            split, label = _FOLDERS[top]
            defect_type = rest.partition("/")[0] if label == "ng" and "/" in rest else ""
            yield SourceImage(key, split, label, defect_type, masks.get(f"masks/{rest.rpartition('.')[0]}"), size)
        else:
            yield _reject_outside(key, ", ".join(_FOLDERS))


def _images(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    for key, size in sizes.items():
        if _is_image(key):
            yield SourceImage(key, "unlabelled", "unknown", "", None, size)
        else:
            yield from _reject_other_file(key, in_image_folder=True)


def _csv(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    tables = _tables(source, sizes)
    if len(tables) != 1:
        raise LineError(f"{source.uri()}: the csv layout needs one .csv with a `path` column, found {len(tables)}")
    (name, rows), seen = next(iter(tables.items())), set[str]()
    for number, row in rows:
        where = f"{name} row {number}"
        try:
            item = _csv_item(row, sizes, where)
            if item.image_id in seen:
                raise RejectedImage("duplicate_id", f"{where}: this path is in an earlier row too")
        except RejectedImage as error:
            yield Reject(row.get("path") or f"row {number}", error.reason, error.detail)
        else:
            seen.add(item.image_id)
            yield item


def _csv_item(row: Mapping[str, str], sizes: Sizes, where: str) -> SourceImage:
    if row[_EXTRA]:
        raise RejectedImage("bad_row", f"{where}: {row[_EXTRA]!r} is beyond the last column; is a comma unquoted?")
    key, mask = _inside(row.get("path", ""), where), row.get("mask", "")
    split, label = row.get("split", "").lower(), row.get("label", "").lower()
    if split not in _SPLITS:
        raise RejectedImage("bad_split", f"{where}: split is {split!r}; known: {', '.join(sorted(_SPLITS))}")
    unlabelled = _SPLITS[split] == "unlabelled"
    if label not in _LABELS and not unlabelled:
        raise RejectedImage("bad_label", f"{where}: label is {label!r}; known: {', '.join(sorted(_LABELS))}")
    image_label: Label = "unknown" if unlabelled else _LABELS[label]
    if split == "train" and image_label == "ng":
        raise RejectedImage("ng_in_train", f"{where}: detectors train on OK images only; put it into test")
    for path in filter(None, (key, mask and _inside(mask, where))):
        if path not in sizes:
            raise RejectedImage("missing_file", f"{where}: there is no file {path}")
    return SourceImage(key, _SPLITS[split], image_label, row.get("defect_type", ""), mask or None, sizes[key])


def _inside(path: str, where: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise RejectedImage("path_outside", f"{where}: {path!r} is not a path below the folder of the table")
    return "/".join(parts)


def _tables(source: Store, sizes: Sizes) -> dict[str, Iterable[tuple[int, dict[str, str]]]]:
    """Read the .csv files at the root that have a `path` column, their rows numbered as an editor numbers them."""
    tables: dict[str, Iterable[tuple[int, dict[str, str]]]] = {}
    for key in sizes:
        if "/" in key or not key.lower().endswith(".csv"):
            continue
        try:
            text = source.get(key).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LineError(f"{source.uri(key)} is not UTF-8 text: {error}") from error
        reader = csv.reader(io.StringIO(text), strict=True)
        try:
            rows = [([cell.strip() for cell in row], reader.line_num) for row in reader]
        except csv.Error as error:
            raise LineError(f"{source.uri(key)} row {reader.line_num}: {error}; is a quote left open?") from error
        header = [name.lower() for name in rows[0][0]] if rows else []
        if "path" not in header:
            continue
        if duplicates := {name for name in header if name and header.count(name) > 1}:
            raise LineError(f"{source.uri(key)}: the column {', '.join(sorted(duplicates))} is duplicated")
        tables[key] = [(number, _record(header, row)) for row, number in rows[1:] if any(row)]
    return tables


def _record(header: list[str], row: list[str]) -> dict[str, str]:
    """Map columns to cells, and _EXTRA to the cells beyond the last column."""
    return dict(zip(header, row, strict=False)) | {_EXTRA: ",".join(filter(None, row[len(header) :]))}


def _is_image(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in SUFFIXES


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(key).parts)


def _reject_other_file(key: str, in_image_folder: bool) -> Iterator[Reject]:
    """Reject a file among the images that is neither an image nor a usual companion, as a text file."""
    suffix = PurePosixPath(key).suffix.lower()
    if in_image_folder and suffix not in SUFFIXES and suffix not in _NOT_IMAGES:
        yield Reject(key, "not_an_image", f"files ending in {suffix} are not read; PNG, JPEG, BMP and TIFF are")


def _reject_outside(key: str, folders: str) -> Reject:
    return Reject(key, "not_in_layout", f"an image outside {folders}")


_READERS: Mapping[str, _Reader] = {"mvtec": _mvtec, "folder": _folder, "csv": _csv, IMAGES: _images}
