"""What a layout makes of a folder: images, rejects and findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from raybench.data.manifest import Label, PackFinding, Reject, Split
from raybench.store import Store

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
SPREADSHEETS = frozenset({".csv", ".tsv", ".xls", ".xlsx", ".ods"})
_NOT_IMAGES = (
    frozenset({".txt", ".json", ".md", ".csv", ".xml", ".yaml", ".yml", ".db", ".ini", ".pdf", ""}) | SPREADSHEETS
)


@dataclass(frozen=True)
class SourceTree:
    """The files of a folder."""

    store: Store
    """Store that reads them."""
    sizes: Mapping[str, int]
    """Bytes of each file, by its key. Hidden files are absent."""
    line: str = ""
    """Name of the line that is packed. Where the folder holds several lines, it says which is meant."""


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
    attributes: tuple[tuple[str, str], ...] = ()
    """Further columns of its row in a table, by name: `camera`, `light`. Empty cells are left out."""
    mask_keys: tuple[str, ...] = ()
    """Keys of its mask in the source: none without a mask, several if the mask is their union."""
    roi_keys: tuple[str, ...] = ()
    """Keys of its own region of interest in the source: none without one, several if the region is their union."""
    is_labelled_by_mask: bool = False
    """Whether nothing but its mask says whether it is OK, so that it cannot be packed without."""


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
    roi_key: str = ""
    """Key of the region of interest of all images that have none of their own. Empty without one."""


Entry = SourceImage | Reject | PackFinding


def is_image(key: str) -> bool:
    """Return whether a file is read as an image, by its suffix."""
    return PurePosixPath(key).suffix.lower() in SUFFIXES


def stem(key: str) -> str:
    """Return the key without its suffix."""
    return key.rpartition(".")[0]


def reject_other_file(key: str, in_image_folder: bool) -> Iterator[Reject]:
    """Reject a file among the images that is neither an image nor a usual companion, as a text file."""
    suffix = PurePosixPath(key).suffix.lower()
    if in_image_folder and suffix not in SUFFIXES and suffix not in _NOT_IMAGES:
        yield Reject(key, "not_an_image", f"files ending in {suffix} are not read; PNG, JPEG, BMP and TIFF are")
