"""What a packed line consists of: `<line>/manifest.json`, written last, so a line with a manifest is whole."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from raybench.errors import IntegrityError, LineError, ObjectMissing
from raybench.store import Store
from raybench.store.digest import digest

# 2: images, their sizes and their masks are turned as EXIF says; 1 took pixels as stored.
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class ShardInfo:
    """key: relative to the store of lines, `<line>/<split>-00000.parquet`. size: bytes. sha256: of the whole object.

    footer_size, footer_sha256: of the Parquet footer at its end, which has no checksum of its own.
    """

    key: str
    split: str
    rows: int
    size: int
    sha256: str
    footer_size: int
    footer_sha256: str


@dataclass(frozen=True)
class Reject:
    """A file that was not packed. reason: a short stable word. detail: a sentence for a person."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Manifest:
    """One packed line. counts: `split/label` → images. Sizes in pixels, over all images.

    white_level: the pixel value that means white; 255 for 8-bit lines, else the smallest 2^k - 1 that no pixel of
    the line's 16-bit images exceeds (cameras deliver 10, 12 or 14 bits in 16).
    """

    line: str
    schema_version: int
    layout: str
    counts: Mapping[str, int]
    masks: int
    median_height: int
    median_width: int
    min_height: int
    min_width: int
    max_height: int
    max_width: int
    white_level: int
    shards: tuple[ShardInfo, ...]
    rejects: tuple[Reject, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over what can change a number: not over how the images were found or what was rejected."""
        identity = asdict(self)
        del identity["layout"], identity["rejects"]
        return digest(identity)

    def shards_of(self, split: str) -> tuple[ShardInfo, ...]:
        return tuple(shard for shard in self.shards if shard.split == split)

    @property
    def scored_shards(self) -> tuple[ShardInfo, ...]:
        """All that nobody trains on: test and unlabelled."""
        return tuple(shard for shard in self.shards if shard.split != "train")


_ADAPTER = TypeAdapter(Manifest)


def manifest_key(line: str) -> str:
    return f"{line}/manifest.json"


def read_manifest(lines: Store, line: str) -> Manifest:
    """The manifest of a line in the store of lines. Raises LineError when it is not packed, IntegrityError."""
    key = manifest_key(line)
    try:
        found = _ADAPTER.validate_json(lines.get(key))
    except ObjectMissing as error:
        raise LineError(f"the line {line!r} is not packed in {lines.uri()}") from error
    except ValidationError as error:
        raise IntegrityError(f"{lines.uri(key)} is not a line manifest: {error}") from error
    if found.schema_version != SCHEMA_VERSION:
        raise LineError(
            f"{lines.uri(key)} has schema version {found.schema_version}, this raybench reads {SCHEMA_VERSION}; "
            "pack the line again"
        )
    if faults := _faults(found, line):
        raise IntegrityError(f"{lines.uri(key)} contradicts itself: {'; '.join(faults)}")
    return found


def _faults(manifest: Manifest, line: str) -> list[str]:
    """What no packing writes: a manifest copied to another name, edited by hand, or made to mislead a reader."""
    shards, keys = manifest.shards, [shard.key for shard in manifest.shards]
    rows, counted = Counter[str](), Counter[str]()
    for shard in shards:
        rows[shard.split] += shard.rows
    for name, count in manifest.counts.items():
        counted[name.partition("/")[0]] += count
    sides = (manifest.min_height, manifest.min_width)
    shard_key = re.compile(rf"{re.escape(line)}/[a-z]+-\d+\.parquet")
    checks = {
        f"it is of the line {manifest.line!r}": manifest.line == line,
        "a shard lies outside the line": all(map(shard_key.fullmatch, keys)),
        "a shard stands there twice": len(set(keys)) == len(keys),
        "a shard's sizes cannot be": all(0 < shard.footer_size < shard.size and shard.rows > 0 for shard in shards),
        "its counts are not its shards' rows": rows == counted,
        "its image sizes cannot be": min(sides) > 0,
        "its white level cannot be": 255 <= manifest.white_level < 2**16,
    }
    return [fault for fault, passed in checks.items() if not passed]


def write_manifest(lines: Store, manifest: Manifest) -> None:
    lines.put(manifest_key(manifest.line), _ADAPTER.dump_json(manifest, indent=1) + b"\n")
