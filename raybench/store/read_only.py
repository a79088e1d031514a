"""Backend for all other addresses of fsspec (gs://, abfs://, zip::…), read-only: images can be packed from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import fsspec

from raybench.errors import InputError, ObjectMissing, StoreError
from raybench.store.backend import ObjectInfo, StoreConfig

# Names of an object's stamp in the file systems of fsspec.
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")


class ReadOnly:
    """A backend that reads through fsspec. All writes raise StoreError."""

    def __init__(self, config: StoreConfig) -> None:
        self.uri = config.uri
        try:
            self.files, self.root = fsspec.core.url_to_fs(config.uri)
        except (ImportError, ValueError) as error:
            raise InputError(f"{config.uri}: {error}") from error

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        end = None if start is None else start + (length or 0)
        with _fsspec_errors(f"{self.uri}/{key}"):
            data: bytes = self.files.cat_file(f"{self.root}/{key}", start=start, end=end)
        return data

    def put(self, key: str, data: bytes, kind: str = "") -> None:
        raise StoreError(f"{self.uri}: this kind of store is read-only here; write to s3:// or file://")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return False

    def exists(self, key: str) -> bool:
        with _fsspec_errors(f"{self.uri}/{key}"):
            return bool(self.files.isfile(f"{self.root}/{key}"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _fsspec_errors(self.uri):
            files = sorted(self.files.find(self.root, detail=True).items())
        for path, info in files:
            key = path.removeprefix(self.root).lstrip("/")
            if key.startswith(prefix):
                yield ObjectInfo(key, int(info["size"]), _stamp(info))

    def folders(self, prefix: str) -> Iterator[str]:
        below = (item.key.removeprefix(prefix).partition("/") for item in self.list(prefix))
        yield from sorted({name for name, separator, _ in below if separator})

    def delete(self, key: str) -> None:
        self.put(key, b"")

    def create(self) -> None:
        self.put("", b"")

    def clock(self) -> float:
        raise StoreError(f"{self.uri}: this kind of store does not tell the time")


def _stamp(info: dict[str, Any]) -> str:
    return next((str(info[name]) for name in _STAMPS if info.get(name)), "")


@contextlib.contextmanager
def _fsspec_errors(where: str) -> Iterator[None]:
    """Convert errors to the store's. File systems of fsspec raise errors of their own libraries, of any kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(where) from error
    except Exception as error:
        raise StoreError(f"{where}: {type(error).__name__}: {error}") from error
