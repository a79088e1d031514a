"""Layouts of image folders: how a file's path, or a table, gives its split, label, defect type and mask.

mvtec    train/good, test/good, test/<defect>, ground_truth/<defect>/<mask>
folder   ok (training images), ng or ng/<defect>, unlabelled; optional: test_ok, masks/<path of the image in ng>
csv      one .csv at the root: path, split (train, test, unlabelled), label (ok, ng); optional: mask, defect_type,
         group (the part, panel or lot that several images show)
images   every image of the folder and its subfolders is unlabelled; never detected, only used if named

Names of folders may be upper or lower case. `mask_files` says how masks are named.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from raybench.data.manifest import Label, PackFinding, Reject, Split
from raybench.data.mask_files import assign_masks, masks_beside_images, png_masks_of_jpegs
from raybench.errors import LineError, RejectedImage, UnknownName
from raybench.store import Store

AUTO, IMAGES = "auto", "images"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_SPREADSHEETS = frozenset({".csv", ".tsv", ".xls", ".xlsx", ".ods"})
_NOT_IMAGES = (
    frozenset({".txt", ".json", ".md", ".csv", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf", ""}) | _SPREADSHEETS
)
_SEPARATORS = ",;\t"
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
_GOOD = frozenset({"good", "ok", "normal"})
_FOLDERS: Mapping[str, tuple[Split, Label]] = {
    "ok": ("train", "ok"),
    "good": ("train", "ok"),
    "normal": ("train", "ok"),
    "test_ok": ("test", "ok"),
    "test_good": ("test", "ok"),
    "test_normal": ("test", "ok"),
    "ng": ("test", "ng"),
    "bad": ("test", "ng"),
    "abnormal": ("test", "ng"),
    "anomaly": ("test", "ng"),
    "defect": ("test", "ng"),
    "unlabelled": ("unlabelled", "unknown"),
    "unlabeled": ("unlabelled", "unknown"),
}
_MASKS = frozenset({"masks", "mask", "ground_truth"})


@dataclass(frozen=True)
class SourceImage:
    """One image to pack."""

    image_id: str
    """Its key in the source, so unique in its line."""
    split: Split
    label: Label
    defect_type: str
    """Empty for an image that is not NG, and for an NG image of no named type."""
    size: int
    """Bytes of the image file."""
    group: str = ""
    """The part, panel or lot that it shows. Empty if it belongs to no group."""
    mask_keys: tuple[str, ...] = ()
    """Keys of its mask in the source: none without a mask, several if the mask is their union."""


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder, read by its layout."""

    layout: str
    """Name of the layout that was used, never `auto`."""
    items: tuple[SourceImage, ...]
    """Sorted by split, then by image ID."""
    rejects: tuple[Reject, ...]
    """Files that cannot be used. Sorted by path."""
    findings: tuple[PackFinding, ...] = ()
    """Sorted by path."""


_Told = TypeVar("_Told", Reject, PackFinding)
Entry = SourceImage | Reject | PackFinding
Sizes = Mapping[str, int]
_Reader = Callable[[Store, Sizes], Iterator[Entry]]


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
    items, rejects, findings = [], [], []
    told = () if layout == IMAGES else _tables_not_used(source, sizes, layout)
    for entry in map(_with_safe_names, itertools.chain(_READERS[layout](source, sizes), told)):
        if isinstance(entry, SourceImage):
            items.append(entry)
        elif isinstance(entry, Reject):
            rejects.append(entry)
        else:
            findings.append(entry)
    items.sort(key=lambda item: (item.split, item.image_id))
    return FolderListing(layout, tuple(items), _by_path(rejects), _by_path(findings))


def _by_path(found: list[_Told]) -> tuple[_Told, ...]:
    return tuple(sorted(found, key=lambda one: one.path))


def _with_safe_names(entry: Entry) -> Entry:
    """Reject names with control characters or invalid UTF-8: names are shown in terminals, tables and reports."""
    if isinstance(entry, Reject):
        return Reject(_escape(entry.path), entry.reason, _escape(entry.detail))
    if isinstance(entry, PackFinding):
        return PackFinding(_escape(entry.path), entry.kind, _escape(entry.detail))
    for name in (entry.image_id, *entry.mask_keys, entry.defect_type, entry.group):
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
    if layout := _detect_folders(sizes):
        return layout
    found = ", ".join(sorted(tops)[:10]) or "nothing"
    raise LineError(
        f"{source.uri()}: no known layout. Looked for train/good (mvtec), ok (folder), or a .csv with a `path` column "
        f"(csv); found {found}{_remedy(source, sizes)}"
    )


def _remedy(source: Store, sizes: Sizes) -> str:
    """Say what makes a folder without a known layout one with it."""
    below: dict[str, list[str]] = {}
    for key in sizes:
        top, _, rest = key.partition("/")
        below.setdefault(top, []).append(rest)
    lines = {top: layout for top, keys in sorted(below.items()) if (layout := _detect_folders(keys))}
    if lines:
        top, layout = next(iter(lines.items()))
        more = f", and so do {len(lines) - 1} more folders" if len(lines) > 1 else ""
        return f". {top} looks like a line of the layout {layout}{more}: pack {source.uri(top)}"
    train = next((top for top in below if top.lower() == "train"), None)
    if train and any("/" not in rest and _is_image(rest) for rest in below[train]):
        return f". Move the OK images of {train} into {train}/good"
    if train:
        inner = sorted({rest.partition("/")[0] for rest in below[train] if "/" in rest})
        return f". Rename the folder of OK images in {train} to {train}/good; it holds {', '.join(inner[:10])}"
    if any(_is_image(rest) for rests in below.values() for rest in rests):
        return ". Rename the folder of OK images to train on to ok"
    return ". Put the OK images to train on into a folder named ok" if any(map(_is_image, below)) else ""


def _detect_folders(sizes: Iterable[str]) -> str | None:
    for key in sizes:
        folders = PurePosixPath(_below_data(key)).parts[:-1]
        lower = [folder.lower() for folder in folders]
        if lower[:1] == ["train"] and lower[1:2] and lower[1] in _GOOD:
            return "mvtec"
        if lower and _FOLDERS.get(lower[0]) == ("train", "ok"):
            return "folder"
    return None


@dataclass(frozen=True)
class _Placed:
    """A file of a layout by folders: an image, or a mask without its image yet."""

    item: SourceImage | None
    """None for a mask."""
    places: tuple[str, ...]
    """Path without suffix of the image; for a mask of the images that it may be named after. See `assign_masks`."""


def _mvtec(source: Store, sizes: Sizes) -> Iterator[Entry]:
    def place(key: str, size: int) -> _Placed | None:
        top, _, rest = key.partition("/")
        kind = rest.partition("/")[0]
        match top.lower(), kind.lower():
            case "ground_truth", _:
                return _Placed(None, (f"test/{_stem(rest)}",))
            case "test_public", "ground_truth":
                return _Placed(None, (f"test_public/{_stem(rest.partition('/')[2])}",))
            case "train", good if good in _GOOD:
                return _Placed(SourceImage(key, "train", "ok", "", size), (_stem(key),))
            case "test" | "test_public", good if good in _GOOD:
                return _Placed(SourceImage(key, "test", "ok", "", size), (_stem(key),))
            case "test" | "test_public", _:
                return _Placed(SourceImage(key, "test", "ng", kind, size), (_stem(key),))
            case "test_private" | "test_private_mixed", _:
                return _Placed(SourceImage(key, "unlabelled", "unknown", "", size), (_stem(key),))
        return None

    yield from _by_folders(sizes, place, {"train", "test", "test_public", "ground_truth"}, "train/good or test/<type>")


def _folder(source: Store, sizes: Sizes) -> Iterator[Entry]:
    def place(key: str, size: int) -> _Placed | None:
        top, _, rest = _below_data(key).partition("/")
        if top.lower() in _MASKS:
            kind, _, inner = rest.partition("/")
            labelled = _FOLDERS.get(kind.lower())
            ng = "-".join(_FOLDERS["ng"])
            named = (f"{'-'.join(labelled)}/{_stem(inner)}",) if labelled else ()
            return _Placed(None, (f"{ng}/{_stem(rest)}", *named))
        if top.lower() not in _FOLDERS:
            return None
        split, label = _FOLDERS[top.lower()]
        defect_type = rest.partition("/")[0] if label == "ng" and "/" in rest else ""
        return _Placed(SourceImage(key, split, label, defect_type, size), (f"{split}-{label}/{_stem(rest)}",))

    yield from _by_folders(sizes, place, {*_FOLDERS, *_MASKS}, "ok, test_ok, ng, unlabelled")


def _by_folders(
    sizes: Sizes, place: Callable[[str, int], _Placed | None], image_folders: set[str], expected: str
) -> Iterator[Entry]:
    """Read a layout whose folders give split, label and defect type.

    Args:
        sizes: Bytes of each file.
        place: Places an image file. None if the layout does not name its folder.
        image_folders: Folders at the root, in lower case, in which other files than images are rejected.
        expected: The folders of the layout, for messages.
    """
    items, images, masks = dict[str, SourceImage](), dict[str, str](), dict[str, tuple[str, ...]]()
    for key, size in sizes.items():
        if not _is_image(key):
            yield from _reject_other_file(key, _below_data(key).partition("/")[0].lower() in image_folders)
        elif (placed := place(key, size)) is None:
            yield Reject(key, "not_in_layout", f"an image outside {expected}")
        elif placed.item is None:
            masks[key] = placed.places
        else:
            items[key], images[key] = placed.item, placed.places[0]
    beside = masks_beside_images(images)
    if not masks and not beside:
        beside = png_masks_of_jpegs({key: images[key] for key, item in items.items() if item.label == "ng"})
    masks |= {key: (images.pop(key),) for key in sorted(beside)}
    assigned = assign_masks(images, masks)
    yield from assigned.rejects
    for key in images:
        yield replace(items[key], mask_keys=assigned.keys.get(key, ()))


def _stem(key: str) -> str:
    return key.rpartition(".")[0]


def _below_data(key: str) -> str:
    """Drop the folders that VisA has around its images and masks."""
    for folder, shorter in (("data/images/", ""), ("data/masks/", "masks/")):
        if key.lower().startswith(folder):
            return shorter + key[len(folder) :]
    return key


def _images(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    for key, size in sizes.items():
        if _is_image(key):
            yield SourceImage(key, "unlabelled", "unknown", "", size)
        else:
            yield from _reject_other_file(key, in_image_folder=True)


def _csv(source: Store, sizes: Sizes) -> Iterator[Entry]:
    tables = _tables(source, sizes)
    if len(tables) != 1:
        raise LineError(f"{source.uri()}: the csv layout needs one .csv with a `path` column, found {len(tables)}")
    (name, rows), seen, masked = next(iter(tables.items())), set[str](), dict[str, str]()
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
            try:
                mask = _csv_mask(row, sizes, where)
            except RejectedImage as error:
                yield Reject(row["mask"], error.reason, f"{error.detail}; the image is packed without it")
                mask = ()
            for key in mask:
                if (first := masked.setdefault(key, item.image_id)) != item.image_id:
                    yield PackFinding(item.image_id, "shared mask", f"{where}: has the mask of {first} too, {key}")
            yield replace(item, mask_keys=mask)
    yield from _not_in_table(sizes, name, seen | set(masked))


def _csv_item(row: Mapping[str, str], sizes: Sizes, where: str) -> SourceImage:
    if row[_EXTRA]:
        raise RejectedImage("bad_row", f"{where}: {row[_EXTRA]!r} is beyond the last column; is a comma unquoted?")
    key = _inside(row.get("path", ""), where)
    split, label = row.get("split", "").lower(), row.get("label", "").lower()
    if split not in _SPLITS:
        raise RejectedImage("bad_split", f"{where}: split is {split!r}; known: {', '.join(sorted(_SPLITS))}")
    unlabelled = _SPLITS[split] == "unlabelled"
    if label not in _LABELS and not unlabelled:
        raise RejectedImage("bad_label", f"{where}: label is {label!r}; known: {', '.join(sorted(_LABELS))}")
    image_label: Label = "unknown" if unlabelled else _LABELS[label]
    if split == "train" and image_label == "ng":
        raise RejectedImage("ng_in_train", f"{where}: detectors train on OK images only; put it into test")
    if key not in sizes:
        raise RejectedImage("missing_file", f"{where}: there is no file {key}")
    return SourceImage(
        key, _SPLITS[split], image_label, row.get("defect_type", ""), sizes[key], group=row.get("group", "")
    )


def _csv_mask(row: Mapping[str, str], sizes: Sizes, where: str) -> tuple[str, ...]:
    if not row.get("mask"):
        return ()
    try:
        mask = _inside(row["mask"], where)
    except RejectedImage as error:
        raise RejectedImage("mask_outside", error.detail) from error
    if mask not in sizes:
        raise RejectedImage("mask_missing", f"{where}: there is no file {mask}")
    return (mask,)


def _inside(path: str, where: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise RejectedImage("path_outside", f"{where}: {path!r} is not a path below the folder of the table")
    return "/".join(parts)


def _tables(source: Store, sizes: Sizes) -> dict[str, Iterable[tuple[int, dict[str, str]]]]:
    """Read the .csv files at the root that have a `path` column, their rows numbered as an editor numbers them.

    Commas, semicolons and tabs separate cells; the header says which.
    """
    tables: dict[str, Iterable[tuple[int, dict[str, str]]]] = {}
    for key in sizes:
        if "/" in key or not key.lower().endswith(".csv"):
            continue
        text = _table_text(source.get(key), source.uri(key))
        header_row = text.partition("\n")[0]
        separators = [
            one for one in _SEPARATORS if "path" in _header(next(csv.reader([header_row], delimiter=one), []))
        ]
        reader = csv.reader(io.StringIO(text), strict=True, delimiter=separators[0] if separators else ",")
        try:
            rows = [([cell.strip() for cell in row], reader.line_num) for row in reader]
        except csv.Error as error:
            raise LineError(f"{source.uri(key)} row {reader.line_num}: {error}; is a quote left open?") from error
        header = _header(rows[0][0]) if rows else []
        if "path" not in header:
            continue
        if duplicates := {name for name in header if name and header.count(name) > 1}:
            raise LineError(f"{source.uri(key)}: the column {', '.join(sorted(duplicates))} is duplicated")
        tables[key] = [(number, _record(header, row)) for row, number in rows[1:] if any(row)]
    return tables


def _header(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _table_text(data: bytes, uri: str) -> str:
    """Decode a table as spreadsheets write it: UTF-8 or UTF-16 with a byte-order mark, UTF-8, or Windows-1252."""
    encodings = ["utf-16"] if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    raise LineError(f"{uri} is text of an unknown encoding; save it as UTF-8")


def _tables_not_used(source: Store, sizes: Sizes, layout: str) -> Iterator[Entry]:
    """Say of each table at the root that it decides nothing."""
    used = set(_tables(source, sizes)) if layout == "csv" else set()
    for key in sizes:
        if "/" not in key and PurePosixPath(key).suffix.lower() in _SPREADSHEETS and key not in used:
            detail = f"a table that is not used: the layout is {layout}, and csv needs a .csv with a `path` column"
            yield Reject(key, "table_unused", detail)


def _not_in_table(sizes: Sizes, name: str, used: set[str]) -> Iterator[Entry]:
    left_out = sorted(key for key in sizes if _is_image(key) and key not in used)
    if left_out:
        detail = f"{len(left_out)} images are in no row that can be used, such as {left_out[0]}"
        yield PackFinding(name, "images in no row", detail)


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


_READERS: Mapping[str, _Reader] = {"mvtec": _mvtec, "folder": _folder, "csv": _csv, IMAGES: _images}
