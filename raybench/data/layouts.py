"""Image folders as they come: which file is an image of which split, label and defect type, and which is its mask.

mvtec    train/good, test/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png (or <stem>.png)
folder   ok (to train on), ng or ng/<defect>, unlabelled; optional: test_ok, masks/<same path as in ng>
csv      one .csv at the root: path, split (train, test, unlabelled), label (ok, ng); optional: mask, defect_type
images   every image, wherever it lies, is unlabelled; never found out by itself
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from raybench.data.manifest import Reject
from raybench.errors import LineError, RejectedImage, UnknownName
from raybench.store import Store

AUTO, IMAGES = "auto", "images"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_NOT_IMAGES = frozenset({".txt", ".json", ".md", ".csv", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf", ""})
_EXTRA = ""  # the name of what stands beyond the last column
_UNLABELLED = ("unlabelled", "unlabeled")
_LABELS = {"ok": "ok", "good": "ok", "normal": "ok", "ng": "ng", "defect": "ng", "anomaly": "ng", "bad": "ng"}
_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(_UNLABELLED, "unlabelled")}


@dataclass(frozen=True)
class SourceImage:
    """One image to pack. image_id: its path in the source, so unique in its line. size: bytes."""

    image_id: str
    split: str
    label: str
    defect_type: str
    mask_key: str | None
    size: int


@dataclass(frozen=True)
class Found:
    """layout: the one that was used. items: sorted by split and id. rejects: files that are of no use."""

    layout: str
    items: tuple[SourceImage, ...]
    rejects: tuple[Reject, ...]


Sizes = Mapping[str, int]
_Reader = Callable[[Store, Sizes], Iterator[SourceImage | Reject]]


def find(source: Store, layout: str = AUTO) -> Found:
    """The images of `source`. Raises UnknownName for a layout that does not exist, LineError when none fits."""
    if layout != AUTO and layout not in _READERS:
        raise UnknownName("layout", layout, (AUTO, *_READERS))
    sizes = {item.key: item.size for item in source.list() if not _hidden(item.key)}
    if layout == AUTO:
        layout = _detect(source, sizes)
    items, rejects = [], []
    for found in map(_with_plain_name, _READERS[layout](source, sizes)):
        if isinstance(found, Reject):
            rejects.append(found)
        else:
            items.append(found)
    items.sort(key=lambda item: (item.split, item.image_id))
    return Found(layout, tuple(items), tuple(sorted(rejects, key=lambda reject: reject.path)))


def _with_plain_name(found: SourceImage | Reject) -> SourceImage | Reject:
    """Names go to terminals, tables and reports: one that is not Unicode, or holds control characters, is refused.

    A Reject tells it escaped.
    """
    if isinstance(found, Reject):
        return Reject(_escaped(found.path), found.reason, _escaped(found.detail))
    for name in (found.image_id, found.mask_key or "", found.defect_type):
        if _escaped(name) != name:
            what = "control characters, or bytes that are not UTF-8"
            return Reject(_escaped(found.image_id), "bad_name", f"{_escaped(name)} holds {what}; rename it")
    return found


def _escaped(name: str) -> str:
    """`name` with control characters and lone surrogates (bytes that are not UTF-8) as backslash escapes."""
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
    shown = ", ".join(sorted(tops)[:10]) or "nothing"
    raise LineError(
        f"{source.uri()}: no known layout. Looked for train/good (mvtec), ok (folder), or a .csv with a `path` column "
        f"(csv); found {shown}"
    )


def _mvtec(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    masks = {key.rpartition(".")[0]: key for key in sizes if key.startswith("ground_truth/")}
    for key, size in sizes.items():
        split, _, rest = key.partition("/")
        kind = rest.partition("/")[0]
        if split == "ground_truth" or not _is_image(key):
            yield from _unless_known(key, split in ("train", "test", "ground_truth"))
        elif split == "test" or (split == "train" and kind == "good"):
            label = "ok" if kind == "good" else "ng"
            stem = rest.rpartition(".")[0]
            mask = masks.get(f"ground_truth/{stem}_mask") or masks.get(f"ground_truth/{stem}")
            yield SourceImage(key, split, label, "" if label == "ok" else kind, mask, size)
        else:
            yield _outside(key, "train/good or test/<type>")


def _folder(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    masks = {key.rpartition(".")[0]: key for key in sizes if key.startswith("masks/")}
    kinds = {"ok": ("train", "ok"), "test_ok": ("test", "ok"), "ng": ("test", "ng")}
    kinds |= dict.fromkeys(_UNLABELLED, ("unlabelled", "unknown"))
    for key, size in sizes.items():
        top, _, rest = key.partition("/")
        if top == "masks" or not _is_image(key):
            yield from _unless_known(key, top in kinds or top == "masks")
        elif top in kinds:
            split, label = kinds[top]
            defect_type = rest.partition("/")[0] if label == "ng" and "/" in rest else ""
            yield SourceImage(key, split, label, defect_type, masks.get(f"masks/{rest.rpartition('.')[0]}"), size)
        else:
            yield _outside(key, ", ".join(kinds))


def _images(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    for key, size in sizes.items():
        if _is_image(key):
            yield SourceImage(key, "unlabelled", "unknown", "", None, size)
        else:
            yield from _unless_known(key, in_image_folder=True)


def _csv(source: Store, sizes: Sizes) -> Iterator[SourceImage | Reject]:
    tables = _tables(source, sizes)
    if len(tables) != 1:
        raise LineError(f"{source.uri()}: the csv layout wants one .csv with a `path` column, found {len(tables)}")
    (name, rows), seen = next(iter(tables.items())), set[str]()
    for number, row in rows:
        where = f"{name} row {number}"
        try:
            item = _csv_item(row, sizes, where)
            if item.image_id in seen:
                raise RejectedImage("duplicate_id", f"{where}: this path stands in an earlier row")
        except RejectedImage as error:
            yield Reject(row.get("path") or f"row {number}", error.reason, error.detail)
        else:
            seen.add(item.image_id)
            yield item


def _csv_item(row: Mapping[str, str], sizes: Sizes, where: str) -> SourceImage:
    if row[_EXTRA]:
        raise RejectedImage("bad_row", f"{where}: {row[_EXTRA]!r} stands beyond the last column; is a comma unquoted?")
    key, mask = _inside(row.get("path", ""), where), row.get("mask", "")
    split, label = row.get("split", "").lower(), row.get("label", "").lower()
    if split not in _SPLITS:
        raise RejectedImage("bad_split", f"{where}: split is {split!r}; known: {', '.join(sorted(_SPLITS))}")
    unlabelled = _SPLITS[split] == "unlabelled"
    if label not in _LABELS and not unlabelled:
        raise RejectedImage("bad_label", f"{where}: label is {label!r}; known: {', '.join(sorted(_LABELS))}")
    known = "unknown" if unlabelled else _LABELS[label]
    if split == "train" and known == "ng":
        raise RejectedImage("ng_in_train", f"{where}: detectors train on OK images only; put it into test")
    for path in filter(None, (key, mask and _inside(mask, where))):
        if path not in sizes:
            raise RejectedImage("missing_file", f"{where}: there is no file {path}")
    return SourceImage(key, _SPLITS[split], known, row.get("defect_type", ""), mask or None, sizes[key])


def _inside(path: str, where: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise RejectedImage("path_outside", f"{where}: {path!r} is not a path below the folder of the table")
    return "/".join(parts)


def _tables(source: Store, sizes: Sizes) -> dict[str, Iterable[tuple[int, dict[str, str]]]]:
    """The .csv files at the root that have a `path` column: their rows, numbered as an editor shows them."""
    found: dict[str, Iterable[tuple[int, dict[str, str]]]] = {}
    for key in sizes:
        if "/" in key or not key.lower().endswith(".csv"):
            continue
        try:
            text = source.get(key).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LineError(f"{source.uri(key)} is not UTF-8 text: {error}") from error
        reader = csv.reader(io.StringIO(text), strict=True)
        try:
            lines = [([cell.strip() for cell in line], reader.line_num) for line in reader]
        except csv.Error as error:
            raise LineError(f"{source.uri(key)} row {reader.line_num}: {error}; is a quote left open?") from error
        header = [name.lower() for name in lines[0][0]] if lines else []
        if "path" not in header:
            continue
        if twice := {name for name in header if name and header.count(name) > 1}:
            raise LineError(f"{source.uri(key)}: the column {', '.join(sorted(twice))} stands there twice")
        found[key] = [(number, _record(header, line)) for line, number in lines[1:] if any(line)]
    return found


def _record(header: list[str], line: list[str]) -> dict[str, str]:
    """The row by column, and under _EXTRA what stands beyond the last one."""
    return dict(zip(header, line, strict=False)) | {_EXTRA: ",".join(filter(None, line[len(header) :]))}


def _is_image(key: str) -> bool:
    return PurePosixPath(key).suffix.lower() in SUFFIXES


def _hidden(key: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(key).parts)


def _unless_known(key: str, in_image_folder: bool) -> Iterator[Reject]:
    """A reject for a file among the images that is neither an image nor one of the usual companions."""
    suffix = PurePosixPath(key).suffix.lower()
    if in_image_folder and suffix not in SUFFIXES and suffix not in _NOT_IMAGES:
        yield Reject(key, "not_an_image", f"files ending in {suffix} are not read; PNG, JPEG, BMP and TIFF are")


def _outside(key: str, wanted: str) -> Reject:
    return Reject(key, "not_in_layout", f"an image outside {wanted}")


_READERS: Mapping[str, _Reader] = {"mvtec": _mvtec, "folder": _folder, "csv": _csv, IMAGES: _images}
