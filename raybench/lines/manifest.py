"""What a packed line consists of: `<line>/manifest.json`, written last, so a line with a manifest is whole."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from raybench.errors import IntegrityError, LineError, ObjectMissing
from raybench.store import Store
from raybench.units import digest

SCHEMA_VERSION = 1


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
    return found


def write_manifest(lines: Store, manifest: Manifest) -> None:
    lines.put(manifest_key(manifest.line), _ADAPTER.dump_json(manifest, indent=1) + b"\n")
