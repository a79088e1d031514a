"""Read labels back: recognise what a tool wrote, match its images with a line, and make corrections of it."""

from __future__ import annotations

import csv
import getpass
import hashlib
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from raybench.data.checks import mask_marks
from raybench.data.corrections import Correction, read_corrections
from raybench.data.decode import decode_mask, decode_mask_file, encode_mask
from raybench.data.labels import LabelChange, changes_of, correct_labels
from raybench.data.line import Line
from raybench.data.manifest import Change, Label, read_manifest
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import InputError, LabelError, RejectedImage
from raybench.report.annotations import cvat, label_studio
from raybench.report.annotations.coco import read_coco
from raybench.report.annotations.item import safe_stem
from raybench.report.annotations.labelled import LabelledImage, LabelledRegion, Mask, read_json
from raybench.report.annotations.write import WRITTEN
from raybench.report.annotations.yolo import read_yolo

Empty = Literal["leave", "ok"]
_DECISIONS: Mapping[str, Label | None] = {
    "ok": "ok",
    "ng": "ng",
    "unknown": "unknown",
    "bad picture": "unknown",
    "unsure": None,
    "": None,
}
_RANK = len("000001-")  # of the names in raybench's export
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # Label Studio puts this before the names of uploaded files
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelImport:
    """Labels that came back to a line."""

    line: Line
    """The line, with the new labels unless it was a rehearsal."""
    changes: tuple[LabelChange, ...]
    """What changes, in the order of the line."""
    unchanged: int
    """Number of labelled images that were labelled so before."""
    left: int
    """Number of images of which the file says nothing (not annotated, without a region, or as exported), that are
    labelled and somebody is unsure of, or that are of other lines."""

    @property
    def steps(self) -> Counter[str]:
        """Numbers of changes by what they do, as `OK → NG` or `mask added`."""
        return Counter(_step(change) for change in self.changes)

    @property
    def trains(self) -> bool:
        """Whether the line's detectors must be trained again, because other training images are OK."""
        return any(
            change.row.split == "train" and (change.row.label == "ok") != (change.correction.label == "ok")
            for change in self.changes
        )


def import_labels(
    line: Line,
    source: Path,
    *,
    empty: Empty = "leave",
    by: str = "",
    representative: bool | None = None,
    rehearse: bool = False,
) -> LabelImport:
    """Give images of a line the labels and masks that people gave them in an annotation tool.

    Args:
        line: The line.
        source: A file of COCO, CVAT, Label Studio, or a CSV file of decisions; or a folder of YOLO labels or PNG masks.
        empty: What an image without region and label is: "leave" leaves it as it is, "ok" labels it OK.
        by: Who labelled the images. Empty takes the tool's word, then the user who imports.
        representative: Whether the images were chosen without looking at them or at scores, so that they count in
            metrics. None leaves what was said before.
        rehearse: Only say what would change.

    Raises:
        InputError: The file cannot be read, or the line may not be written.
        LabelError: Some labels cannot be those of the line; all are named, and nothing is changed.
        StoreError: The store fails.
    """
    if not line.writable and not rehearse:
        raise InputError(
            f"{line.uri} is an earlier state, or in another store than its run; open it by its own URI to label it"
        )
    line = replace(line, manifest=read_manifest(line.store, line.name))
    untouched = _untouched(source)
    if source in untouched:
        raise InputError(f"{source} is as raybench wrote it: nobody has worked on it yet")
    labelled = list(read_labels(source))
    if labelled and not any(each.line in ("", line.name) for each in labelled):
        named = ", ".join(sorted({each.line for each in labelled})[:3])
        raise InputError(f"{source} has labels of {named}, and none of {line.name}")
    said = [
        each
        for each in labelled
        if each.line in ("", line.name) and each.file not in untouched and _says_something(each, empty)
    ]
    rows = _matched(line, said, source)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    problems: list[str] = []
    corrections: list[Correction] = []
    for each in said:
        about = by or each.by or getpass.getuser(), each.at or now, source.name
        try:
            found = _correction(each, rows[each.name], empty, about)
        except (InputError, RejectedImage) as error:
            problems.append(f"{each.name}: {error}")
        else:
            corrections += [found] if found else []
    if problems:
        raise LabelError(str(source), problems)
    corrections = _with_representative(line, corrections, representative)
    changes = changes_of(line.store, line.manifest, corrections)
    manifest = line.manifest
    if changes and not rehearse:
        user = by or getpass.getuser()
        people = ", ".join(sorted({each.correction.by for each in changes} - {user}))
        what = f"{len(changes)} {'label' if len(changes) == 1 else 'labels'} from {source.name}"
        change = Change(now, user, f"{what}, given by {people}" if people else what, manifest.digest)
        manifest = correct_labels(line.store, manifest, corrections, change)
    unchanged, left = len(corrections) - len(changes), len(labelled) - len(corrections)
    return LabelImport(Line(line.store, manifest, line.writable), tuple(changes), unchanged, left)


def _with_representative(line: Line, corrections: Sequence[Correction], is_so: bool | None) -> list[Correction]:
    """Note in corrections whether their images were chosen. is_so: None leaves what was said before."""
    if is_so is not None:
        return [replace(each, representative=is_so) for each in corrections]
    said = (each for shard in line.manifest.shards for each in read_corrections(line.store, shard).values())
    before = {each.image_id for each in said if each.representative}
    return [replace(each, representative=each.image_id in before) for each in corrections]


def read_labels(source: Path) -> Iterator[LabelledImage]:
    """Yield the images of a file or folder that an annotation tool wrote, with what people said of them.

    Raises:
        InputError: Its format is none of those that raybench reads.
    """
    if source.is_dir():
        if (source / "data.yaml").is_file():
            return read_yolo(source)
        return _read_masks(source / "masks" if (source / "masks").is_dir() else source)
    if not source.is_file():
        raise InputError(f"{source} is neither a file nor a folder")
    readers: Mapping[str, Callable[[Path], Iterator[LabelledImage]]] = {
        ".csv": _read_decisions,
        ".xml": cvat.read_cvat,
        ".json": _read_json,
    }
    if source.suffix.lower() not in readers:
        raise InputError(
            f"{source}: labels are read from COCO's and Label Studio's .json, CVAT's .xml, a .csv with the columns "
            "image_id and decision, and folders of YOLO labels or PNG masks"
        )
    return readers[source.suffix.lower()](source)


def _untouched(source: Path) -> set[Path]:
    """Return the files of raybench's own export that nobody has changed since: what they say, a model said."""
    folder = next((folder for folder in (source, source.parent) if (folder / WRITTEN).is_file()), None)
    if folder is None:
        return set()
    rows = (
        line.partition("  ") for line in (folder / WRITTEN).read_text(encoding="utf-8", errors="replace").splitlines()
    )
    paths = {folder / name: sha256 for sha256, _, name in rows}
    return {
        path
        for path, sha256 in paths.items()
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    }


def _says_something(image: LabelledImage, empty: Empty) -> bool:
    return bool(image.regions or image.label or image.is_unsure or (empty == "ok" and not image.is_undecided))


def _read_json(file: Path) -> Iterator[LabelledImage]:
    content = read_json(file)
    if isinstance(content, list):
        return label_studio.read_label_studio(file, content)
    return read_coco(file, content)


def _read_decisions(file: Path) -> Iterator[LabelledImage]:
    """Yield the rows of a table with the columns image_id and decision; others are optional."""
    try:
        rows = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""))
        if missing := [name for name in ("image_id", "decision") if name not in (rows.fieldnames or ())]:
            raise InputError(f"{file} has no column {' and '.join(missing)}; its cells are parted by commas")
        for row in rows:
            yield _decision(row, f"{file}, row {rows.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not a CSV file in UTF-8: {error}") from error


def _decision(row: Mapping[str, Any], where: str) -> LabelledImage:
    if None in (row["image_id"], row["decision"]):
        raise InputError(f"{where}: the row ends before its image_id and decision")
    decision = row["decision"].strip().lower()
    if decision not in _DECISIONS:
        raise InputError(f"{where}: {decision!r} is no decision; write ok, ng, unsure or bad picture")
    return LabelledImage(
        name=row["image_id"],
        line=row.get("line") or "",
        label=_DECISIONS[decision],
        defect_type=row.get("defect_type") or "",
        sha256=(row.get("sha256") or "").lower(),
        by=row.get("decided_by") or "",
        at=row.get("decided_at") or "",
        is_unsure=decision == "unsure",
        is_undecided=not decision,
    )


def _read_masks(folder: Path) -> Iterator[LabelledImage]:
    """Yield the masks of a folder, each named as its image; one that marks nothing is no region."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    if not files:
        raise InputError(f"{folder} has neither PNG masks nor a data.yaml of YOLO labels")
    for file in files:
        data = file.read_bytes()

        def draw(height: int, width: int, data: bytes = data) -> Mask:
            return decode_mask_file(data, height, width).mask

        try:
            regions = (LabelledRegion("", draw),) if mask_marks(data) else ()
        except RejectedImage as error:
            raise InputError(f"{file} is no mask: {error.detail}") from error
        yield LabelledImage(file.relative_to(folder).as_posix(), regions, file=file)


def _matched(line: Line, labelled: Sequence[LabelledImage], source: Path) -> dict[str, ImageRow]:
    """Return the row of each image by the name that the tool uses: its ID, its file in the export, or its own file.

    Raises:
        LabelError: Names fit no image of the line, or several.
    """

    def rows(only: Collection[str] | None) -> Iterator[ImageRow]:
        for shard in line.manifest.shards:
            yield from read_rows(line.store, shard, images=False, only=only)

    names = _Names(row.image_id for row in rows(None))
    found: dict[str, str] = {}
    problems = []
    for name in sorted({each.name for each in labelled}):
        ids = names.find(name)
        if len(ids) == 1:
            found[name] = next(iter(ids))
        elif ids:
            problems.append(f"{name}: may be any of {', '.join(sorted(ids)[:3])}; name images by their IDs")
        else:
            problems.append(f"{name or 'an image without a name'}: no such image in the line")
    if problems:
        raise LabelError(f"{source}, as labels of the line {line.name}", problems)
    by_id = {row.image_id: row for row in rows(set(found.values()))}
    return {name: by_id[image_id] for name, image_id in found.items()}


class _Names:
    """What the images of a line may be called in a tool."""

    def __init__(self, image_ids: Iterable[str]) -> None:
        self._ids: set[str] = set()
        self._of_stem: defaultdict[str, set[str]] = defaultdict(set)
        """By their names in raybench's export, without the rank."""
        self._of_path: defaultdict[str, set[str]] = defaultdict(set)
        """By their whole paths."""
        self._of_end: defaultdict[str, set[str]] = defaultdict(set)
        """By the last parts of their paths."""
        for image_id in image_ids:
            self._ids.add(image_id)
            self._of_stem[safe_stem(0, image_id)[_RANK:]].add(image_id)
            ends = _ends(image_id)
            self._of_path[ends[0]].add(image_id)
            for end in ends:
                self._of_end[end].add(image_id)

    def find(self, name: str) -> set[str]:
        """Return the images that a name may mean, by the surest way that finds any.

        A path means an image if one ends with the other: `/home/mia/strip/test/ok/1.png`, or `1.png`, is the image
        `test/ok/1.png`, and `other/1.png` is not.
        """
        if name in self._ids:
            return {name}
        ends = _ends(name)
        if re.match(r"\d{6}-", ends[-1]) and (exported := self._of_stem.get(ends[-1][_RANK:])):
            return exported
        if found := self._of_end.get(ends[0]) or next(filter(None, map(self._of_path.get, ends)), set()):
            return found
        uploaded = _UPLOADED.fullmatch(ends[-1])
        return self._of_end.get(uploaded[1], set()) if uploaded else set()


def _ends(name: str) -> list[str]:
    """Return a path without suffix, then without its first part, and so on to the stem of its file."""
    path = PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    parts = [*path.parts[:-1], path.stem if path.suffix.lower() in _SUFFIXES else path.name]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _correction(said: LabelledImage, row: ImageRow, empty: Empty, about: tuple[str, str, str]) -> Correction | None:
    """Return what the image is to be: by its label, else NG with a region that marks something.

    Args:
        said: What a person said of the image.
        row: The image as it is.
        empty: What an image is of which nothing is said, see `import_labels`; None is returned where it is left.
        about: Who said it, when, and in which file.
    """
    if said.sha256 and said.sha256 != row.sha256:
        raise InputError("the labelled image is another file than the packed one")
    drawn = [_drawn(region, said, row) if region.draw else None for region in said.regions]
    if said.is_unsure and row.label != "unknown":
        return None
    if not (said.label or drawn or said.is_unsure) and empty == "leave":
        return None
    label: Label = said.label or ("unknown" if said.is_unsure else "ng" if drawn else "ok")
    if drawn and label == "ok":
        raise InputError("labelled OK, and a region is outlined on it; correct one of them")
    mask = None if drawn or row.mask is None or _marks(row) != (label == "ng") else row.mask
    if label != "ng":
        return Correction(row.image_id, row.sha256, label, "", mask, *about)
    if drawn and all(each is not None for each in drawn):
        union: Mask = np.logical_or.reduce([each for each in drawn if each is not None])
        mask = encode_mask(union)
    kinds = Counter(region.kind for region in said.regions if region.kind)
    kind = said.defect_type or (kinds.most_common(1)[0][0] if kinds else row.defect_type)
    return Correction(row.image_id, row.sha256, "ng", kind, mask, *about)


def _drawn(region: LabelledRegion, said: LabelledImage, row: ImageRow) -> Mask:
    """Draw a region on an image. Raises InputError when it was outlined on another size, or marks nothing."""
    if said.size and said.size != (row.height, row.width):
        height, width = said.size
        raise InputError(f"outlined on {width} × {height} pixels, the packed image has {row.width} × {row.height}")
    mask = region.draw(row.height, row.width) if region.draw else np.zeros((0, 0), np.bool_)
    if not mask.any():
        raise InputError("an outline holds the centre of no pixel; draw it larger, or delete it")
    return mask


def _marks(row: ImageRow) -> bool:
    return row.mask is not None and bool(decode_mask(row.mask, row.height, row.width).any())


def _step(change: LabelChange) -> str:
    names = {"ok": "OK", "ng": "NG", "unknown": "not labelled"}
    if change.sets_aside:
        return "left out"
    if change.relabels:
        return f"{names[change.row.label]} → {names[change.correction.label]}"
    if (change.row.mask is None) != (change.correction.mask is None):
        return "mask added" if change.correction.mask is not None else "mask removed"
    if change.row.mask != change.correction.mask:
        return "mask changed"
    if change.row.defect_type != change.correction.defect_type:
        return "defect type"
    return "representative" if change.representative > 0 else "not representative"
