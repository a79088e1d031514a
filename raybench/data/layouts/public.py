"""Layouts of public data sets that folders alone do not tell, as they are downloaded."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raybench.data.checks import mask_marks
from raybench.data.layouts.listing import Entry, SourceImage, SourceTree, is_image, reject_other_file, stem
from raybench.data.layouts.tables import Row, read_rows, read_table
from raybench.data.manifest import Label, PackFinding, Reject, Split
from raybench.errors import LineError, ObjectMissing, RejectedImage

VISA_TABLE = "split_csv/1cls.csv"
_KOLEKTOR = re.compile(r"(?P<item>kos\d+)/[^/]+_label\.bmp", re.IGNORECASE)
_KOLEKTOR2 = re.compile(r"(?P<split>train|test)/[^/]+_gt\.png", re.IGNORECASE)
_REAL_IAD = re.compile(r"(?:.*/)?realiad_jsons(?P<variant>[^/]*)/(?:[^/]+/)*(?P<line>[^/]+)\.json", re.IGNORECASE)
_READERS = 16


def detect(keys: Iterable[str]) -> str | None:
    """Return the data set whose files these are; None if it is none of them."""
    for key in keys:
        if key == VISA_TABLE:
            return "visa"
        for layout, pattern in (("kolektor", _KOLEKTOR), ("kolektor2", _KOLEKTOR2), ("real-iad", _REAL_IAD)):
            if pattern.fullmatch(key):
                return layout
    return None


def read_kolektor(tree: SourceTree) -> Iterator[Entry]:
    """Read KolektorSDD. It has no split: the second half of its items is for testing."""
    items = sorted({key.partition("/")[0] for key in tree.sizes if _KOLEKTOR.fullmatch(key)})
    tested = set(items[len(items) // 2 :])

    def place(key: str) -> tuple[Split, str] | None:
        item = key.partition("/")[0]
        return ("test" if item in tested else "train", item) if item in items else None

    yield from _by_masks(tree, _KOLEKTOR, place, "kos01, kos02, …")
    if tested:
        detail = (
            f"the data set has no split: {len(items) - len(tested)} items are for training, and {len(tested)} from "
            "here on for testing; a table of the layout csv can say otherwise"
        )
        yield PackFinding(min(tested), "split by item", detail)


def read_kolektor2(tree: SourceTree) -> Iterator[Entry]:
    """Read KolektorSDD2."""

    def place(key: str) -> tuple[Split, str] | None:
        top, _, rest = key.partition("/")
        splits: dict[str, Split] = {"train": "train", "test": "test"}
        return (splits[top.lower()], "") if top.lower() in splits and "/" not in rest else None

    yield from _by_masks(tree, _KOLEKTOR2, place, "train and test")


def _by_masks(
    tree: SourceTree, pattern: re.Pattern[str], place: Callable[[str], tuple[Split, str] | None], expected: str
) -> Iterator[Entry]:
    """Read a data set in which every image has a mask beside it, and is OK if that marks nothing.

    Args:
        tree: The files.
        pattern: Of the key of a mask.
        place: Returns split and group of an image; None if it lies elsewhere.
        expected: The folders of the layout, for messages.
    """
    masks = {key for key in tree.sizes if pattern.fullmatch(key)}
    images = sorted(key for key in tree.sizes if is_image(key) and key not in masks)
    places = {key: placed for key in images if (placed := place(key)) is not None}
    assigned, rejects = _beside(places, masks)
    yield from rejects
    with ThreadPoolExecutor(_READERS) as pool:
        labels = dict(zip(assigned, pool.map(lambda mask: _label(tree, mask), assigned.values()), strict=True))
    for key in sorted(tree.sizes.keys() - set(images) - masks):
        yield from reject_other_file(key, in_image_folder=place(key) is not None)
    for key in images:
        if key not in places:
            yield Reject(key, "not_in_layout", f"an image outside {expected}")
            continue
        if key not in labels:
            yield Reject(key, "bad_label", "has no mask of its own beside it, which would say whether it is OK or NG")
            continue
        (split, group), mask, label = places[key], assigned[key], labels[key]
        if isinstance(label, RejectedImage):
            yield Reject(
                mask, label.reason, f"{label.detail}; {key} is left out, as nothing else says whether it is OK"
            )
            yield without_label(key, mask)
        elif label == "ng" and split == "train":
            yield Reject(key, "ng_in_train", "its mask marks a defect, and detectors train on OK images only")
            yield Reject(mask, "mask_unused", f"{key} is not packed")
        else:
            yield SourceImage(
                key, split, label, "", tree.sizes[key], group, mask_keys=(mask,), is_labelled_by_mask=True
            )


def without_label(image_id: str, mask: str) -> Reject:
    """Reject an image whose label its mask would say, because the mask cannot be used."""
    return Reject(image_id, "bad_label", f"its mask {mask} cannot be used, which would say whether it is OK or NG")


def _beside(images: Iterable[str], masks: Iterable[str]) -> tuple[dict[str, str], list[Reject]]:
    """Return the mask `…_label.bmp` or `…_GT.png` of each image, and the masks that fit none, or share one.

    Unlike `assign_masks`, no other way to name a mask counts: the mask decides the label.
    """
    images_at, masks_at = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for key in sorted(images):
        images_at[stem(key).casefold()].append(key)
    for key in sorted(masks):
        masks_at[stem(key).rpartition("_")[0].casefold()].append(key)
    assigned, rejects = dict[str, str](), list[Reject]()
    for place, keys in masks_at.items():
        fitting = images_at.get(place, [])
        if len(fitting) == len(keys) == 1:
            assigned[fitting[0]] = keys[0]
        elif fitting:
            detail = f"{' and '.join(keys)} beside {' and '.join(fitting)}; keep one image and one mask of this name"
            rejects += [Reject(key, "mask_ambiguous", detail) for key in keys]
        else:
            rejects += [Reject(key, "mask_unused", "no image has a name that this mask fits") for key in keys]
    return assigned, rejects


def _label(tree: SourceTree, mask: str) -> Label | RejectedImage:
    try:
        return "ng" if mask_marks(tree.store.get(mask)) else "ok"
    except RejectedImage as error:
        return error
    except ObjectMissing:
        return RejectedImage("mask_missing", "was listed and has disappeared, or is a link to nowhere")


def read_visa(tree: SourceTree) -> Iterator[Entry]:
    """Read the object of VisA that has the line's name, split as in the paper's one-class table."""
    rows = read_table(tree.store, VISA_TABLE, "image") if VISA_TABLE in tree.sizes else None
    if rows is None or not any("object" in row for _, row in rows):
        raise LineError(f"{tree.store.uri()}: the layout visa needs {VISA_TABLE} with rows of `object` and `image`")
    objects = sorted({row.get("object", "") for _, row in rows})
    _check_line(tree, objects, VISA_TABLE)
    chosen = [
        (where, dict(row) | {"path": row.get("image", "")}) for where, row in rows if row.get("object") == tree.line
    ]
    yield from _listed(tree, chosen, VISA_TABLE, f"{tree.line}/")


def read_real_iad(tree: SourceTree) -> Iterator[Entry]:
    """Read the object of Real-IAD that has the line's name. The images of one part are a group."""
    listings = {key: found for key in sorted(tree.sizes) if (found := _REAL_IAD.fullmatch(key))}
    _check_line(tree, sorted({found["line"] for found in listings.values()}), "realiad_jsons")
    mine = [key for key, found in listings.items() if found["line"] == tree.line]
    # realiad_jsons before realiad_jsons_sv, and a copy in a folder below it last
    chosen = min(mine, key=lambda key: (len(listings[key]["variant"]), key.count("/"), key))
    for key in mine:
        if key != chosen:
            yield Reject(key, "table_unused", f"{chosen} lists {tree.line} as well, and one of them can be used")
    listing = _RealIadListing.read(tree, chosen)
    yield from listing.rejects
    yield from _listed(tree, listing.rows, chosen, listing.folder)


@dataclass(frozen=True)
class _RealIadEntry:
    """One image in a JSON file of Real-IAD."""

    where: str
    """Where it stands, for messages."""
    split: str
    image: str
    """Path below the listing's prefix, like that of the mask."""
    mask: str
    """Empty without a mask."""
    kind: str
    """Its type of defect, or the listing's `normal_class`."""

    @classmethod
    def read(cls, where: str, split: str, entry: object) -> _RealIadEntry | Reject:
        """Read an entry. One that cannot be read is rejected, not its whole file."""
        cells = entry if isinstance(entry, dict) else {}
        image, kind, mask = (cells.get(name) for name in ("image_path", "anomaly_class", "mask_path"))
        if not (isinstance(image, str) and image and isinstance(kind, str) and kind):
            return Reject(where, "bad_row", f"{where}: image_path and anomaly_class must be text, and not empty")
        if not (mask is None or isinstance(mask, str)):
            return Reject(where, "bad_row", f"{where}: mask_path must be text, or null where there is no mask")
        return cls(where, split, image, mask or "", kind)


@dataclass(frozen=True)
class _RealIadListing:
    """One of Real-IAD's JSON files."""

    rows: list[Row]
    """Its images, as rows of the layout `csv`."""
    rejects: list[Reject]
    """Its entries that cannot be read."""
    folder: str
    """Prefix of the keys of its images."""

    @classmethod
    def read(cls, tree: SourceTree, key: str) -> _RealIadListing:
        """Read a listing. Raises LineError if it is another kind of JSON, or if its images are in several folders."""
        try:
            content = json.loads(tree.store.get(key))
            texts = [content["meta"]["prefix"], content["meta"]["normal_class"]]
            lists = {split: content[split] for split in ("train", "test")}
            if not (
                all(isinstance(text, str) for text in texts) and all(isinstance(of, list) for of in lists.values())
            ):
                raise TypeError("one of these is neither text nor a list")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wanted = "meta with prefix and normal_class, and lists train and test"
            raise LineError(
                f"{tree.store.uri(key)} is no listing of Real-IAD, which has {wanted}: {error!r}"
            ) from error
        (prefix, normal), entries, rejects = texts, list[_RealIadEntry](), list[Reject]()
        for split, listed in lists.items():
            for number, cells in enumerate(listed):
                entry = _RealIadEntry.read(f"{key} {split} {number}", split, cells)
                if isinstance(entry, Reject):
                    rejects.append(entry)
                else:
                    entries.append(entry)
        folder = _folder_of(tree, prefix, [entry.image for entry in entries])
        return cls([_row(entry, folder, normal) for entry in entries], rejects, folder)


def _row(entry: _RealIadEntry, folder: str, normal: str) -> Row:
    cells = {
        "path": f"{folder}{entry.image}",
        "split": entry.split,
        "label": "ok" if entry.kind == normal else "ng",
        "mask": f"{folder}{entry.mask}" if entry.mask else "",
        "defect_type": "" if entry.kind == normal else entry.kind,
        "group": entry.image.rpartition("/")[0],
    }
    return entry.where, cells


def _folder_of(tree: SourceTree, prefix: str, paths: Iterable[str]) -> str:
    """Return the prefix of the keys of these images: `realiad_1024/audiojack/` for the prefix `audiojack/`."""
    wanted = {f"{prefix}{path}" for path in paths}
    starts = {key: f"/{key}".find(f"/{prefix}") for key in tree.sizes}
    folders = {key[:start] for key, start in starts.items() if start >= 0 and key[start:] in wanted}
    if len(folders) > 1:
        raise LineError(
            f"{tree.store.uri()}: the images of {tree.line} are in {' and '.join(sorted(folders))}; leave one of these "
            "resolutions in the folder"
        )
    return f"{next(iter(folders), '')}{prefix}"


def _check_line(tree: SourceTree, objects: list[str], name: str) -> None:
    if tree.line not in objects:
        raise LineError(
            f"{tree.store.uri()} holds several lines, and {name} has none named {tree.line!r}; `--line` can be "
            f"{', '.join(objects)}"
        )


def _listed(tree: SourceTree, rows: Sequence[Row], name: str, folder: str) -> Iterator[Entry]:
    """Read the rows of a listing, and reject what lies in the line's folder and is in none of them."""
    told: set[str] = set()
    for entry in read_rows(rows, tree.sizes, told, folder):
        if isinstance(entry, Reject):
            told.add(entry.path)
        yield entry
    for key in sorted(key for key in tree.sizes if key.startswith(folder) and key not in told):
        if is_image(key):
            yield Reject(key, "not_in_layout", f"an image or mask in no row of {name} that can be used")
        else:
            yield from reject_other_file(key, in_image_folder=True)
