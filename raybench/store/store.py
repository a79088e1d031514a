"""Object stores behind one small class.

    s3://bucket/prefix     boto3; any S3-compatible server that honours `If-None-Match: *`
    file:///dir or a path  a local or shared folder
    anything else          read-only through fsspec (gs://, abfs://, zip::…): images can be packed from it

Credentials come from boto3's standard chain only. A `Store` pickles to its `StoreConfig`, which has no keys, so it can
be sent to a Ray worker, which builds its client from the worker's environment.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from raybench.errors import InputError, UnsafeStore
from raybench.store.backend import Backend, ObjectInfo, StoreConfig, scheme_of
from raybench.store.folder import Folder
from raybench.store.read_only import ReadOnly
from raybench.store.s3 import S3


class Store:
    """Objects under a root URI. Keys are relative to it, with `/` between their parts.

    Every method may raise StoreUnreachable, StoreDenied, BucketMissing or StoreError, and InputError for a key that is
    not relative or leaves the root.
    """

    def __init__(self, config: StoreConfig) -> None:
        self.config = config

    def __repr__(self) -> str:
        return f"Store({self.config.uri!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[StoreConfig]]:
        return Store, (self.config,)

    @functools.cached_property
    def _backend(self) -> Backend:
        scheme = scheme_of(self.config.uri)
        if scheme == "s3":
            return S3(self.config)
        return Folder(self.config) if scheme == "file" else ReadOnly(self.config)

    def get(self, key: str) -> bytes:
        """Read an object.

        Raises:
            ObjectMissing: There is no such object.
        """
        return self._backend.get(_checked(key), None, None)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start`, fewer at the end of the object.

        Raises:
            ObjectMissing: There is no such object.
        """
        return self._backend.get(_checked(key), start, length) if length else b""

    def put(self, key: str, data: bytes, kind: str = "") -> None:
        """Write or overwrite an object. Readers never see a part of it.

        Args:
            key: Its key.
            data: Its bytes.
            kind: What it is, letters and `-`: the value of its tag `raybench`, where the store tags objects.
        """
        self._backend.put(_checked(key), data, kind)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write an object unless the key exists. Of any number of racing writers exactly one gets True."""
        return self._backend.put_if_absent(_checked(key), data)

    def exists(self, key: str) -> bool:
        return self._backend.exists(_checked(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List the objects whose key starts with `prefix`, sorted by key."""
        return self._backend.list(prefix)

    def folders(self, prefix: str = "") -> Iterator[str]:
        """List the names of the folders right below `prefix`, which ends with "/", without listing what they hold."""
        return self._backend.folders(prefix)

    def delete(self, key: str) -> None:
        """Remove an object. A missing one is no error."""
        self._backend.delete(_checked(key))

    def sub(self, prefix: str) -> Store:
        """Return the store whose root is `prefix` below this one."""
        return Store(replace(self.config, uri=self.uri(prefix)))

    def with_retry_timeout(self, seconds: float) -> Store:
        """Return the same store, with methods that retry so long before they raise StoreUnreachable."""
        return Store(replace(self.config, patience_s=seconds))

    def uri(self, key: str = "") -> str:
        root = self.config.uri.rstrip("/")
        return f"{root}/{key.strip('/')}" if key.strip("/") else root

    def clock(self) -> float:
        """Return the server's clock, in seconds since 1970 and to the second."""
        return self._backend.clock()

    def create(self) -> None:
        """Create the bucket or the folder if it is not there."""
        self._backend.create()

    def check(self) -> None:
        """Check that the server refuses the second of two conditional PUTs, without which commits would be lost.

        Raises:
            UnsafeStore: The server overwrites.
        """
        key = f".raybench-self-test/{uuid.uuid4().hex}"
        self.put_if_absent(key, b"1")  # ignore the result: a retry after a lost response finds the key taken
        overwritten, data = self.put_if_absent(key, b"2"), self.get(key)
        self.delete(key)
        if overwritten or data != b"1":
            raise UnsafeStore(
                f"{self.config.uri}: the server ignores If-None-Match on PUT, so two workers could commit the same "
                "result twice; use a server that honours it (AWS S3, SeaweedFS, MinIO, Ceph >= Squid)"
            )


def open_store(uri: str, **settings: Any) -> Store:
    """Open the store at `uri`.

    An S3 endpoint that is not given is taken from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and a CA bundle from
    AWS_CA_BUNDLE. Both are kept when the store is pickled.

    Args:
        uri: s3://bucket/prefix, file:///folder, a path or an address of fsspec.
        settings: The other fields of StoreConfig.

    Raises:
        InputError: The URI is invalid, or it or the endpoint holds credentials.
    """
    if not uri:
        raise InputError("the store URI is empty; give s3://bucket/prefix, file:///folder or a path")
    scheme = scheme_of(uri)
    _check_uri(uri, scheme)
    if scheme == "s3":
        if not urlparse(uri).netloc:
            raise InputError(f"{uri}: an s3:// URI names a bucket: s3://bucket/prefix")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        settings = {"endpoint_url": endpoint, "ca_bundle": os.environ.get("AWS_CA_BUNDLE", "")} | {
            name: value for name, value in settings.items() if value
        }
    elif "://" not in uri:
        try:
            uri = Path(uri).expanduser().resolve().as_uri()
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{uri[:200]!r} is not a path: {error}") from error
    _check_no_secret(settings.get("endpoint_url", ""))
    return Store(StoreConfig(uri=uri.rstrip("/"), **settings))


def _check_uri(uri: str, scheme: str) -> None:
    """Reject URIs with credentials, and URIs that would be read as another place than they seem to name."""
    if any(ord(letter) < ord(" ") or letter == "\x7f" for letter in uri):
        raise InputError(f"{uri[:200]!r}: a store URI has no control characters")
    _check_no_secret(uri)
    if not scheme:
        raise InputError(f"{uri}: the scheme before :// is missing; give s3://bucket/prefix, file:///folder or a path")
    if "://" not in uri or scheme not in ("s3", "file"):
        return
    parsed = urlparse(uri)
    if parsed.query or parsed.fragment or ";" in uri:
        raise InputError(f"{uri}: `?`, `#` and `;` are not allowed in the URI of a store")
    if scheme == "file" and (parsed.netloc or not parsed.path):
        raise InputError(f"{uri}: a file URI has three slashes and no host: file:///folder")


def _check_no_secret(uri: str) -> None:
    """Reject credentials in a URI, as URIs are shown and stored."""
    try:
        parsed = urlparse(uri)
        secret = parsed.username is not None or parsed.password is not None
    except ValueError as error:
        raise InputError(f"{uri!r} is not a URI: {error}") from error
    if secret and "://" in uri:
        raise InputError(
            "a store's URI or endpoint holds a user name or password; take it out, and use the environment"
        )


def _checked(key: str) -> str:
    parts = PurePosixPath(key).parts
    if not key or key.startswith("/") or ".." in parts or "\x00" in key:
        raise InputError(f"{key!r} is not an object key: it must be relative and stay below the store's root")
    return key


def digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON value in canonical form: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: The value holds NaN or an infinity.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
