"""The protocol of a store's backend, and the configuration that reaches one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class StoreConfig:
    """How to reach a store, without any secret. Empty fields take the default of boto3."""

    uri: str
    """s3://, file:// or an address of fsspec, without a trailing slash."""
    endpoint_url: str = ""
    """S3 only."""
    region: str = ""
    """S3 only."""
    profile: str = ""
    """S3 only: profile of the AWS configuration, with its credentials."""
    ca_bundle: str = ""
    """S3 only: file of the certificates to trust."""
    tags: bool = False
    """S3 only: whether objects get their kind as a tag, for lifecycle rules."""
    patience_s: float = 0.0
    """S3 only: seconds to retry while the server is unreachable or fails, before an error is raised."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it."""

    key: str
    """Relative to the root of the store."""
    size: int
    """Bytes."""
    stamp: str = field(default="", compare=False)
    """An ETag or a time, which changes when the object is written again. Empty if the store has none."""
    modified: float = field(default=0.0, compare=False)
    """When it was last written, by the clock of the store, in seconds since 1970. 0 if the store does not say."""


class Backend(Protocol):
    """The operations of a `Store`, which documents them. Keys are checked already."""

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        """Read `length` bytes from `start`, or the whole object if `start` is None."""
        ...

    def put(self, key: str, data: bytes, kind: str = "") -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...
    def folders(self, prefix: str) -> Iterator[str]: ...
    def delete(self, key: str) -> None: ...
    def exists(self, key: str) -> bool: ...
    def create(self) -> None: ...
    def clock(self) -> float: ...


def scheme_of(uri: str) -> str:
    """Return the scheme of a URI; `file` for a path, the outer one of a chain, as `zip` of zip::s3://…"""
    return uri.split("://", 1)[0].split("::", 1)[0] if "://" in uri else "file"
