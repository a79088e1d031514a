"""What stands behind a `Store`: the protocol of a backend, and how to reach one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class StoreConfig:
    """How to reach a store, without any secret. Empty fields mean the standard chain's own choice.

    patience_s: how long to wait for a server that does not answer or is in trouble, before an error is raised.
    """

    uri: str
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    ca_bundle: str = ""
    patience_s: float = 0.0


@dataclass(frozen=True)
class ObjectInfo:
    """key: relative to the store's root. size: bytes. stamp: changes when the object is written again (an ETag, or a
    time); empty where the store tells none."""

    key: str
    size: int
    stamp: str = field(default="", compare=False)


class Backend(Protocol):
    def get(self, key: str, start: int | None, length: int | None) -> bytes: ...
    def put(self, key: str, data: bytes) -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...
    def delete(self, key: str) -> None: ...
    def exists(self, key: str) -> bool: ...
    def create(self) -> None: ...


def scheme_of(uri: str) -> str:
    return uri.split("://", 1)[0].split("::", 1)[0] if "://" in uri else "file"
