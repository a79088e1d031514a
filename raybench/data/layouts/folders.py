"""Layouts that are told by the names of folders: `mvtec` and `folder`; and `images`, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from raybench.data.layouts.listing import Entry, SourceImage, SourceTree, is_image, reject_other_file, stem
from raybench.data.manifest import Label, Reject, Split
from raybench.data.mask_files import assign_masks, masks_beside_images, png_masks_of_jpegs

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


def detect(keys: Iterable[str]) -> str | None:
    """Return which of the two layouts these files have; None if neither."""
    for key in keys:
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


def read_mvtec(tree: SourceTree) -> Iterator[Entry]:
    """Read `train/good`, `test/<defect>` and `ground_truth/<defect>`."""

    def place(key: str, size: int) -> _Placed | None:
        top, _, rest = key.partition("/")
        kind = rest.partition("/")[0]
        match top.lower(), kind.lower():
            case "ground_truth", _:
                return _Placed(None, (f"test/{stem(rest)}",))
            case "test_public", "ground_truth":
                return _Placed(None, (f"test_public/{stem(rest.partition('/')[2])}",))
            case "train", good if good in _GOOD:
                return _Placed(SourceImage(key, "train", "ok", "", size), (stem(key),))
            case "test" | "test_public", good if good in _GOOD:
                return _Placed(SourceImage(key, "test", "ok", "", size), (stem(key),))
            case "test" | "test_public", _ if "/" in rest:
                return _Placed(SourceImage(key, "test", "ng", kind, size), (stem(key),))
            case "test_private" | "test_private_mixed", _:
                return _Placed(SourceImage(key, "unlabelled", "unknown", "", size), (stem(key),))
        return None

    yield from _by_folders(tree, place, {"train", "test", "test_public", "ground_truth"}, "train/good or test/<type>")


def read_folder(tree: SourceTree) -> Iterator[Entry]:
    """Read `ok`, `test_ok`, `ng`, `unlabelled` and `masks`."""

    def place(key: str, size: int) -> _Placed | None:
        top, _, rest = _below_data(key).partition("/")
        if top.lower() in _MASKS:
            kind, _, inner = rest.partition("/")
            labelled = _FOLDERS.get(kind.lower())
            ng = "-".join(_FOLDERS["ng"])
            named = (f"{'-'.join(labelled)}/{stem(inner)}",) if labelled else ()
            return _Placed(None, (f"{ng}/{stem(rest)}", *named))
        if top.lower() not in _FOLDERS:
            return None
        split, label = _FOLDERS[top.lower()]
        defect_type = rest.partition("/")[0] if label == "ng" and "/" in rest else ""
        return _Placed(SourceImage(key, split, label, defect_type, size), (f"{split}-{label}/{stem(rest)}",))

    yield from _by_folders(tree, place, {*_FOLDERS, *_MASKS}, "ok, test_ok, ng, unlabelled")


def _by_folders(
    tree: SourceTree, place: Callable[[str, int], _Placed | None], image_folders: set[str], expected: str
) -> Iterator[Entry]:
    """Read a layout whose folders give split, label and defect type.

    Args:
        tree: The files.
        place: Places an image file. None if the layout does not name its folder.
        image_folders: Folders at the root, in lower case, in which other files than images are rejected.
        expected: The folders of the layout, for messages.
    """
    items, images, masks = dict[str, SourceImage](), dict[str, str](), dict[str, tuple[str, ...]]()
    for key, size in tree.sizes.items():
        if not is_image(key):
            yield from reject_other_file(key, _below_data(key).partition("/")[0].lower() in image_folders)
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


def _below_data(key: str) -> str:
    """Drop the folders that VisA has around its images and masks."""
    for folder, shorter in (("data/images/", ""), ("data/masks/", "masks/")):
        if key.lower().startswith(folder):
            return shorter + key[len(folder) :]
    return key


def read_images(tree: SourceTree) -> Iterator[Entry]:
    """Take every image as unlabelled."""
    for key, size in tree.sizes.items():
        if is_image(key):
            yield SourceImage(key, "unlabelled", "unknown", "", size)
        else:
            yield from reject_other_file(key, in_image_folder=True)
