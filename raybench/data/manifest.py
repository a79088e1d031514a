"""The manifest of a packed line: `<line>/manifest.json`. It is written last, so a line with a manifest is complete."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from raybench.errors import IntegrityError, LineError, ObjectMissing
from raybench.store import Store, digest

# Version 1 ignored EXIF orientation. Since version 2, images, sizes and masks are oriented as EXIF says.
# Since version 3, shards have a column `group`. Since version 4, they have a column `attributes`.
SCHEMA_VERSION = 4

NEXT = "-next.json"
"""End of the keys in a line's history that name the manifest after a change."""
STATE_DIGITS = 12
"""Digits of a manifest's digest in the names of a line's history."""

Split = Literal["train", "test", "unlabelled"]
Label = Literal["ok", "ng", "unknown"]


@dataclass(frozen=True)
class LabelTable:
    """A table of labels and masks that replace those in a shard; see `labels`."""

    key: str
    """Relative to the store of lines: `<line>/labels/<shard>-<sha256>.parquet`."""
    rows: int
    """Number of images whose label or mask it replaces."""
    size: int
    """Bytes."""
    sha256: str
    """Hex digest of the whole object."""
    left_out: str = ""
    """Digest of the IDs of its images that are not OK, which no detector is trained on. Empty if there are none."""


@dataclass(frozen=True)
class ShardInfo:
    """A Parquet file of images, all of one split."""

    key: str
    """Relative to the store of lines: `<line>/<split>-00000.parquet`."""
    split: str
    rows: int
    """Number of images."""
    size: int
    """Bytes."""
    sha256: str
    """Hex digest of the whole object."""
    footer_size: int
    """Bytes of the Parquet footer, which ends the file, with its length and magic."""
    footer_sha256: str
    """Hex digest of the footer. Parquet has no checksum for it."""
    images: str = ""
    """Digest of the ids, image files and regions of interest alone, in order, so without labels and masks. Empty in
    lines of an older raybench."""
    labels: LabelTable | None = None
    """Labels that came back after packing. None if the shard's own labels hold."""
    added: int = 0
    """Number of the changes of the line before it was added, 0 for a shard of the first packing. Unlabelled images that
    were added together are a pool, see `metrics.sampling`."""

    @property
    def pool(self) -> str:
        """Name of the pool that its images are in; empty for images that were labelled when they were packed."""
        return str(self.added) if self.split == "unlabelled" else ""

    @property
    def pixels(self) -> str:
        """Identity of the shard's images, whatever their labels."""
        return self.images or self.sha256


@dataclass(frozen=True)
class Reject:
    """A file that was not packed."""

    path: str
    """Relative to the folder that was packed."""
    reason: str
    """A short code that does not change between versions, as `truncated`."""
    detail: str
    """The reason as a sentence."""


@dataclass(frozen=True)
class PackFinding:
    """Something about a packed file, or about many, that a person should look at."""

    path: str
    """Relative to the folder that was packed."""
    kind: str
    """In words, as `large mask`."""
    detail: str
    """The finding as a sentence."""


@dataclass(frozen=True)
class Change:
    """Something that was done to a line."""

    at: str
    """Time as ISO 8601, UTC."""
    by: str
    """User who did it."""
    what: str
    """In words, as `3 labels from decisions.csv`."""
    before: str
    """The line's digest until then."""


@dataclass(frozen=True)
class RoiSummary:
    """The regions of interest of a line's images."""

    images: int
    """Number of images with a region. All of the others is looked at."""
    kept: float
    """Mean share of these images' pixels that is looked at."""
    shared: str = ""
    """SHA-256 (hex) of the region that all images of the line have, a PNG. Empty if there is no such region."""


@dataclass(frozen=True)
class Manifest:
    """One packed line: its images by split and label, their sizes, its shards and the files that were rejected.

    Heights and widths are in pixels; least and most are over the images of all splits.
    """

    line: str
    """Name of the line."""
    schema_version: int
    layout: str
    """Layout of the folder that was packed; see `layouts`."""
    counts: Mapping[str, int]
    """Number of images by `<split>/<label>`. Combinations without an image are absent."""
    masks: int
    """Number of images with a mask."""
    median_height: int
    """Low median of the training images, or of all where there are none: the height of an actual image."""
    median_width: int
    """Low median like `median_height`."""
    min_height: int
    min_width: int
    max_height: int
    max_width: int
    white_level: int
    """Pixel value that means white. 255 for an 8-bit line, otherwise the smallest 2^k - 1 that the 16-bit training
    images do not exceed, but for hot pixels: cameras deliver 10, 12 or 14 bits in 16. Without 16-bit training images,
    those of all splits count."""
    shards: tuple[ShardInfo, ...]
    """Sorted by split, then by number."""
    rejects: tuple[Reject, ...]
    """Files that were not packed. Sorted by path."""
    findings: tuple[PackFinding, ...] = ()
    """What packing found of files that were packed. Sorted by path."""
    black_level: int = 0
    """Pixel value of 16-bit images that means black. Above 0 only if the training images lie in a narrow band far from
    0, as those of thermal cameras; white and black are then a width of the band above and below it."""
    attributes: tuple[str, ...] = ()
    """Names of the further columns of the table that the line was packed from, sorted."""
    changes: tuple[Change, ...] = ()
    """What has been done to the line since it was packed, the oldest first."""
    sampled: Mapping[str, float] = field(default_factory=dict)
    """How far the sample of each pool of unlabelled images reaches, see `metrics.sampling`. Pools without a sample are
    absent."""
    roi: RoiSummary | None = None
    """The regions of interest. None if all of each image is looked at."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all fields that can change a result, so not of `layout`, `rejects` and `findings`."""
        identity = asdict(self)
        del identity["layout"], identity["rejects"], identity["findings"], identity["changes"]
        del identity["sampled"]  # it follows from the shards and their labels
        del identity["attributes"], identity["roi"]  # they follow from the shards
        if not self.black_level:  # lines from before this field existed have digests without it
            del identity["black_level"]
        identity["shards"] = [_identity(shard) for shard in self.shards]
        return digest(identity)

    @functools.cached_property
    def training_digest(self) -> str:
        """SHA-256 (hex) of all that training depends on: the training shards with their regions of interest, which of
        their images are not OK any more, and the levels. Masks and types of defects are not among it.
        """
        shards = [_identity(replace(shard, labels=None)) for shard in self.shards_of("train")]
        left_out = [shard.labels.left_out for shard in self.shards_of("train") if shard.labels]
        return digest([self.line, shards, self.black_level, self.white_level, *filter(None, left_out)])

    @functools.cached_property
    def images_digest(self) -> str:
        """SHA-256 (hex) of the image files of all splits, and of all that training depends on: labels of test images
        are not among it."""
        return digest([self.training_digest, [shard.pixels for shard in self.shards]])

    def reach(self, shard: ShardInfo) -> float:
        """Return how far the sample of a shard's pool reaches; 1 for images that were labelled from the start."""
        return self.sampled.get(shard.pool, 0.0) if shard.pool else 1.0

    def shards_of(self, split: Split) -> tuple[ShardInfo, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def scored_shards(self) -> tuple[ShardInfo, ...]:
        """The shards that detectors score and do not train on: test and unlabelled."""
        return tuple(shard for shard in self.shards if shard.split != "train")

    @property
    def scored_images(self) -> int:
        """Number of test and unlabelled images."""
        return sum(shard.rows for shard in self.scored_shards)

    def judged(self, label: Label) -> int:
        """Number of test and unlabelled images of a label."""
        return sum(count for name, count in self.counts.items() if name in (f"test/{label}", f"unlabelled/{label}"))

    @property
    def masks_rejected(self) -> int:
        """Number of mask files that are used for no image."""
        return sum(reject.reason.startswith("mask_") for reject in self.rejects)

    @property
    def train_ok(self) -> int:
        """Number of OK training images."""
        return self.counts.get("train/ok", 0)


_ADAPTER = TypeAdapter(Manifest)


def _identity(shard: ShardInfo) -> dict[str, Any]:
    """Return what identifies a shard and its labels. Its `images` and `left_out` follow from the bytes."""
    identity = asdict(shard)
    del identity["images"]
    if not shard.added:  # lines from before this field existed have digests without it
        del identity["added"]
    if shard.labels is None:
        del identity["labels"]
    else:
        del identity["labels"]["left_out"]
    return identity


def has_other_regions(before: Manifest, now: Manifest) -> bool:
    """Return whether the regions of interest of a line have changed, whatever images were added."""
    if before.roi is None or now.roi is None:
        return before.roi != now.roi
    if before.roi.shared or now.roi.shared:
        return before.roi.shared != now.roi.shared
    return before.roi.kept != now.roi.kept


def manifest_key(line: str) -> str:
    return f"{line}/manifest.json"


def read_manifest(lines: Store, line: str, key: str = "") -> Manifest:
    """Read the manifest of `line` in the store of lines, or one of its history that `key` names.

    Raises:
        LineError: The line is not packed there, or was packed with another schema version.
        IntegrityError: The manifest is damaged or contradicts itself.
    """
    key = key or manifest_key(line)
    try:
        manifest = _ADAPTER.validate_json(lines.get(key))
    except ObjectMissing as error:
        raise LineError(f"the line {line!r} is not packed in {lines.uri()}") from error
    except ValidationError as error:
        raise IntegrityError(f"{lines.uri(key)} is not a line manifest: {error}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise LineError(
            f"{lines.uri(key)} has schema version {manifest.schema_version}, this raybench reads {SCHEMA_VERSION}; "
            "pack the line again"
        )
    if faults := _faults(manifest, line):
        raise IntegrityError(f"{lines.uri(key)} contradicts itself: {'; '.join(faults)}")
    return manifest


def read_state(lines: Store, line: str, state: str) -> Manifest:
    """Read the manifest of `line` whose digest begins with `state`: the present one, or one of its history.

    Raises:
        LineError: The line is not packed, has no such state or several, or has been packed again since.
        IntegrityError: A manifest is damaged.
    """
    now = read_manifest(lines, line)
    if now.digest.startswith(state):
        return now
    keys = [item.key for item in lines.list(f"{line}/history/") if not item.key.endswith(NEXT)]
    states = {key.removesuffix(".json").rpartition("-")[2]: key for key in keys}
    fits = sorted(name for name in states if name.startswith(state) or state.startswith(name))
    if len(fits) != 1:
        known = ", ".join((*sorted(states), now.digest[:STATE_DIGITS]))
        raise LineError(f"{line}@{state}: the line has {'several' if fits else 'no'} such states; it has {known}")
    manifest = read_manifest(lines, line, states[fits[0]])
    present = {(shard.key, shard.sha256) for shard in now.shards}
    if any((shard.key, shard.sha256) not in present for shard in manifest.shards):
        raise LineError(f"{line}@{state}: the line has been packed again since, and its images of then are gone")
    return manifest


def _faults(manifest: Manifest, line: str) -> list[str]:
    """List contradictions that packing never writes: a manifest was renamed, edited by hand, or made to mislead."""
    shards, keys = manifest.shards, [shard.key for shard in manifest.shards]
    shard_rows, counts = Counter[str](), Counter[str]()
    for shard in shards:
        shard_rows[shard.split] += shard.rows
    for name, count in manifest.counts.items():
        counts[name.partition("/")[0]] += count
    sides = (manifest.min_height, manifest.min_width)
    shard_key = re.compile(rf"{re.escape(line)}/[a-z]+-\d+\.parquet")
    label_key = re.compile(rf"{re.escape(line)}/labels/[a-z]+-\d+-[0-9a-f]+\.parquet")
    checks = {
        f"it is of the line {manifest.line!r}": manifest.line == line,
        "a shard lies outside the line": all(map(shard_key.fullmatch, keys)),
        "a table of labels lies outside the line": all(
            label_key.fullmatch(shard.labels.key) for shard in shards if shard.labels
        ),
        "a shard is listed twice": len(set(keys)) == len(keys),
        "a shard's sizes are impossible": all(
            0 < shard.footer_size < shard.size and shard.rows > 0 for shard in shards
        ),
        "its counts are not its shards' rows": shard_rows == counts,
        "its image sizes are impossible": min(sides) > 0,
        "its white level is impossible": 0 <= manifest.black_level <= manifest.white_level - 255 < 2**16 - 255,
    }
    return [fault for fault, passed in checks.items() if not passed]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as JSON, UTF-8 with a trailing newline."""
    absent = {"roi"} if manifest.roi is None else None  # as in lines from before this field existed
    return _ADAPTER.dump_json(manifest, indent=1, exclude=absent) + b"\n"


def write_manifest(lines: Store, manifest: Manifest) -> None:
    lines.put(manifest_key(manifest.line), encode_manifest(manifest))
