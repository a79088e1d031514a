"""Layouts that are told by a table: one row for each image."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from raybench.data.layouts.listing import SPREADSHEETS, Entry, SourceImage, SourceTree, is_image
from raybench.data.layouts.regions import ROI, line_roi
from raybench.data.manifest import Label, PackFinding, Reject, Split
from raybench.errors import LineError, RejectedImage
from raybench.store import Store

_SEPARATORS = ",;\t"
EXTRA = ""  # key of the cells beyond the last column of a row
_COLUMNS = {"path", "split", "label", "mask", "roi", "defect_type", "group", EXTRA}
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

Row = tuple[str, Mapping[str, str]]
"""Where it stands, for messages, and its cells by column. The columns are those of the layout `csv`."""


def read_csv(tree: SourceTree) -> Iterator[Entry]:
    """Read the one table at the root that has a `path` column."""
    tables = tables_of(tree)
    if len(tables) != 1:
        uri = tree.store.uri()
        raise LineError(f"{uri}: the csv layout needs one .csv with a `path` column, found {len(tables)}")
    (name, rows), named = next(iter(tables.items())), {line_roi(tree, "csv")}
    yield from read_rows(rows, tree.sizes, named)
    left_out = sorted(key for key in tree.sizes if is_image(key) and key not in named)
    if left_out:
        detail = f"{len(left_out)} images are in no row that can be used, such as {left_out[0]}"
        yield PackFinding(name, "images in no row", detail)


def read_rows(rows: Sequence[Row], sizes: Mapping[str, int], named: set[str], folder: str = "") -> Iterator[Entry]:
    """Read the rows of a table.

    Args:
        rows: The rows.
        sizes: Bytes of each file of the folder.
        named: Receives the images, masks and regions of interest that are packed.
        folder: Prefix of the keys of all images and masks that the rows may name, such as `candle/`.
    """
    seen, masked = dict[str, Row](), dict[str, str]()
    contradictions = _contradictions(rows, folder)
    for image_id, detail in contradictions.items():
        yield Reject(image_id, "bad_label", detail)
    for where, row in rows:
        try:
            item = _item(row, sizes, where, folder, contradictions)
            if item is None:
                continue
            if item.image_id in seen:
                raise RejectedImage("duplicate_id", _duplicate(where, row, *seen[item.image_id]))
        except RejectedImage as error:
            yield Reject(row.get("path") or where, error.reason, error.detail)
        else:
            seen[item.image_id] = where, row
            try:
                mask = _file("mask", row, sizes, where, folder)
            except RejectedImage as error:
                yield Reject(row["mask"], error.reason, f"{error.detail}; the image is packed without it")
                mask = ()
            for key in mask:
                if (first := masked.setdefault(key, item.image_id)) != item.image_id:
                    yield PackFinding(item.image_id, "shared mask", f"{where}: has the mask of {first} too, {key}")
            named.update((item.image_id, *mask, *item.roi_keys))
            yield replace(item, mask_keys=mask)


def _contradictions(rows: Iterable[Row], folder: str) -> dict[str, str]:
    """Return the images whose rows differ in split or label, each with a sentence that names the rows.

    Nobody can say which row is right. Rows that cannot be read say nothing.
    """
    said = defaultdict[str, dict[tuple[Split, Label], str]](dict)
    for where, row in rows:
        with contextlib.suppress(RejectedImage):
            key, split, label = _claim(row, where, folder)
            said[key].setdefault((split, label), where)
    return {
        key: " and ".join(f"{where} says {split}/{label}" for (split, label), where in claims.items())
        + "; the image is left out until one of them is corrected"
        for key, claims in said.items()
        if len(claims) > 1
    }


def _duplicate(where: str, row: Mapping[str, str], first: str, first_row: Mapping[str, str]) -> str:
    """Describe a row whose image is in an earlier row of the same split and label."""
    columns = ("defect_type", "group", "mask", ROI)
    others = [name for name in columns if row.get(name, "") != first_row.get(name, "")]
    differs = f" with another {' and '.join(others)}, and {first} counts" if others else ""
    return f"{where}: this path is in {first} too{differs}"


def _claim(row: Mapping[str, str], where: str, folder: str) -> tuple[str, Split, Label]:
    """Return what a row says: the key, split and label of an image."""
    if row.get(EXTRA):
        raise RejectedImage("bad_row", f"{where}: {row[EXTRA]!r} is beyond the last column; is a comma unquoted?")
    key = _inside(row.get("path", ""), where, folder)
    split, label = row.get("split", "").lower(), row.get("label", "").lower()
    if split not in _SPLITS:
        raise RejectedImage("bad_split", f"{where}: split is {split!r}; known: {', '.join(sorted(_SPLITS))}")
    if _SPLITS[split] == "unlabelled":
        return key, "unlabelled", "unknown"
    if label not in _LABELS:
        raise RejectedImage("bad_label", f"{where}: label is {label!r}; known: {', '.join(sorted(_LABELS))}")
    return key, _SPLITS[split], _LABELS[label]


def _item(
    row: Mapping[str, str], sizes: Mapping[str, int], where: str, folder: str, contradictions: Mapping[str, str]
) -> SourceImage | None:
    key, split, label = _claim(row, where, folder)
    if key in contradictions:
        return None
    if split == "train" and label == "ng":
        raise RejectedImage("ng_in_train", f"{where}: detectors train on OK images only; put it into test")
    if key not in sizes:
        raise RejectedImage("missing_file", f"{where}: there is no file {key}")
    others = sorted((name, cell) for name, cell in row.items() if name not in _COLUMNS and cell)
    return SourceImage(
        key,
        split,
        label,
        row.get("defect_type", ""),
        sizes[key],
        row.get("group", ""),
        attributes=tuple(others),
        roi_keys=_file(ROI, row, sizes, where, folder),
    )


def _file(column: str, row: Mapping[str, str], sizes: Mapping[str, int], where: str, folder: str) -> tuple[str, ...]:
    """Return the key of the file that a cell names, none for an empty cell. Raises RejectedImage if it is not there."""
    if not row.get(column):
        return ()
    try:
        key = _inside(row[column], where, folder)
    except RejectedImage as error:
        raise RejectedImage(f"{column}_outside", error.detail) from error
    if key not in sizes:
        raise RejectedImage(f"{column}_missing", f"{where}: there is no file {key}")
    return (key,)


def _inside(path: str, where: str, folder: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise RejectedImage("path_outside", f"{where}: {path!r} is not a path below the folder of the table")
    key = "/".join(parts)
    if not key.startswith(folder):
        raise RejectedImage("path_outside", f"{where}: {path!r} is not a path below {folder}")
    return key


def tables_of(tree: SourceTree) -> dict[str, list[Row]]:
    """Read the .csv files at the root that have a `path` column."""
    keys = (key for key in tree.sizes if "/" not in key and key.lower().endswith(".csv"))
    tables = {key: read_table(tree.store, key, "path") for key in keys}
    return {key: rows for key, rows in tables.items() if rows is not None}


def read_table(store: Store, key: str, column: str) -> list[Row] | None:
    """Read a .csv, its rows numbered as an editor numbers them; None if it has no such column.

    Commas, semicolons and tabs separate cells; the header says which.
    """
    text, uri = _text(store.get(key), store.uri(key)), store.uri(key)
    header_row = text.partition("\n")[0]
    separators = [one for one in _SEPARATORS if column in _header(header_row.replace('"', "").split(one))]
    reader = csv.reader(io.StringIO(text), strict=True, delimiter=separators[0] if separators else ",")
    try:
        rows = [([cell.strip() for cell in row], reader.line_num) for row in reader]
    except csv.Error as error:
        raise LineError(f"{uri} row {reader.line_num}: {error}; is a quote left open?") from error
    header = _header(rows[0][0]) if rows else []
    if column not in header:
        return None
    if duplicates := {name for name in header if name and header.count(name) > 1}:
        raise LineError(f"{uri}: the column {', '.join(sorted(duplicates))} is duplicated")
    return [(f"{key} row {number}", _record(header, row)) for row, number in rows[1:] if any(row)]


def _header(cells: list[str]) -> list[str]:
    return [cell.strip().lower() for cell in cells]


def _text(data: bytes, uri: str) -> str:
    """Decode a table as spreadsheets write it: UTF-8 or UTF-16 with a byte-order mark, UTF-8, or Windows-1252."""
    encodings = ["utf-16"] if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(encoding)
    raise LineError(f"{uri} is text of an unknown encoding; save it as UTF-8")


def unused(tree: SourceTree, layout: str) -> Iterator[Reject]:
    """Say of each table at the root that it decides nothing."""
    used = set(tables_of(tree)) if layout == "csv" else set()
    for key in tree.sizes:
        if "/" not in key and PurePosixPath(key).suffix.lower() in SPREADSHEETS and key not in used:
            detail = f"a table that is not used: the layout is {layout}, and csv needs a .csv with a `path` column"
            yield Reject(key, "table_unused", detail)


def _record(header: list[str], row: list[str]) -> dict[str, str]:
    """Map columns to cells, and EXTRA to the cells beyond the last column."""
    return dict(zip(header, row, strict=False)) | {EXTRA: ",".join(filter(None, row[len(header) :]))}
