"""What stands behind a `Store`: S3 through boto3, a folder, and read-only everything else through fsspec."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlparse

import boto3
import botocore.exceptions as boto_errors
import fsspec
from botocore.config import Config

from raybench.errors import (
    BucketMissing,
    InputError,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
)

T = TypeVar("T")

GET_ATTEMPTS = 6
FIRST_PAUSE_S = 0.2

_DENIED = {
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}
_EXISTS = {"412", "PreconditionFailed"}
_UNREACHABLE = (
    boto_errors.EndpointConnectionError,
    boto_errors.ConnectTimeoutError,
    boto_errors.ProxyConnectionError,
    boto_errors.SSLError,
)
# botocore retries the request, never the reading of its body
_BROKEN_BODY = (
    boto_errors.ResponseStreamingError,
    boto_errors.IncompleteReadError,
    boto_errors.ReadTimeoutError,
    boto_errors.ConnectionClosedError,
)


@dataclass(frozen=True)
class StoreConfig:
    """How to reach a store, without any secret. Empty fields mean the standard chain's own choice."""

    uri: str
    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    ca_bundle: str = ""


@dataclass(frozen=True)
class ObjectInfo:
    """key: relative to the store's root. size: bytes."""

    key: str
    size: int


class Backend(Protocol):
    def get(self, key: str, start: int | None, length: int | None) -> bytes: ...
    def put(self, key: str, data: bytes) -> None: ...
    def put_if_absent(self, key: str, data: bytes) -> bool: ...
    def list(self, prefix: str) -> Iterator[ObjectInfo]: ...
    def delete(self, key: str) -> None: ...
    def exists(self, key: str) -> bool: ...
    def create(self) -> None: ...


def backend(config: StoreConfig) -> Backend:
    """The backend of the URI's scheme. Raises InputError for one that fsspec does not know."""
    scheme = scheme_of(config.uri)
    if scheme == "s3":
        return S3(config)
    return Folder(config) if scheme == "file" else ReadOnly(config)


def scheme_of(uri: str) -> str:
    return uri.split("://", 1)[0].split("::", 1)[0] if "://" in uri else "file"


class S3:
    def __init__(self, config: StoreConfig) -> None:
        parsed = urlparse(config.uri)
        self.config = config
        self.bucket = parsed.netloc
        self.root = parsed.path.strip("/")
        session = boto3.Session(profile_name=config.profile or None, region_name=config.region or None)
        self.client: Any = session.client(
            "s3",
            endpoint_url=config.endpoint_url or None,
            region_name=session.region_name or "us-east-1",
            verify=config.ca_bundle or None,
            config=Config(
                retries={"mode": "standard", "max_attempts": 4},
                connect_timeout=5,
                read_timeout=60,
                max_pool_connections=32,
                s3={"addressing_style": "path" if config.endpoint_url else "auto"},
            ),
        )

    def _key(self, key: str) -> str:
        return f"{self.root}/{key}" if self.root else key

    def _call(self, work: Callable[[], T], key: str = "") -> T:
        where = f"s3://{self.bucket}/{self._key(key)}"
        try:
            return work()
        except _UNREACHABLE as error:
            endpoint = self.config.endpoint_url or "the default AWS endpoint"
            raise StoreUnreachable(f"{where}: no answer from {endpoint} ({type(error).__name__}); is it up?") from error
        except (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError) as error:
            raise StoreDenied(
                f"{where}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            ) from error
        except boto_errors.ProfileNotFound as error:
            raise StoreDenied(f"{where}: {error}") from error
        except boto_errors.ClientError as error:
            raise self._named(error, where) from error
        except boto_errors.BotoCoreError as error:
            raise StoreError(f"{where}: {error}") from error

    def _named(self, error: boto_errors.ClientError, where: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _DENIED:
            return StoreDenied(f"{where}: the server refused the credentials ({code})")
        if code == "NoSuchBucket":
            return BucketMissing(f"the bucket {self.bucket!r} does not exist; create it or correct the URI")
        if code in {"404", "NoSuchKey"}:
            return ObjectMissing(where)
        return StoreError(f"{where}: {error}")

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        span = {} if start is None else {"Range": f"bytes={start}-{start + (length or 1) - 1}"}

        def read() -> bytes:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key), **span)
            data: bytes = answer["Body"].read()
            return data

        return self._call(lambda: _with_retry(read, _BROKEN_BODY), key)

    def put(self, key: str, data: bytes) -> None:
        self._call(lambda: self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data), key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        def write() -> bool:
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, IfNoneMatch="*")
            except boto_errors.ClientError as error:
                if str(error.response["Error"].get("Code")) in _EXISTS:
                    return False
                raise
            return True

        return self._call(write, key)

    def exists(self, key: str) -> bool:
        try:
            self._call(lambda: self.client.head_object(Bucket=self.bucket, Key=self._key(key)), key)
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        pages = iter(
            self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix) if prefix or self.root else ""
            )
        )
        cut = len(self.root) + 1 if self.root else 0
        while (page := self._call(lambda: next(pages, None), prefix)) is not None:
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"][cut:], int(item["Size"]))

    def delete(self, key: str) -> None:
        self._call(lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(key)), key)

    def create(self) -> None:
        try:
            self._call(lambda: self.client.create_bucket(Bucket=self.bucket))
        except StoreError as error:
            if "BucketAlreadyOwnedByYou" not in str(error) and "BucketAlreadyExists" not in str(error):
                raise


class Folder:
    def __init__(self, config: StoreConfig) -> None:
        self.root = Path(unquote(urlparse(config.uri).path))

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        try:
            with (self.root / key).open("rb") as file:
                if start is None:
                    return file.read()
                file.seek(start)
                return file.read(length)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissing(str(self.root / key)) from error
        except OSError as error:
            raise StoreError(f"{self.root / key}: {error.strerror}") from error

    def put(self, key: str, data: bytes) -> None:
        with self._written(key, data) as temporary:
            temporary.replace(self.root / key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._written(key, data) as temporary:
            try:
                (self.root / key).hardlink_to(temporary)
            except FileExistsError:
                return False
            return True

    @contextlib.contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[Path]:
        target = self.root / key
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".writing-", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{target}: {error.strerror}") from error

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(".writing-"):
                    found.append((key, path))
        for key, path in sorted(found):
            yield ObjectInfo(key, path.stat().st_size)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def create(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)


class ReadOnly:
    def __init__(self, config: StoreConfig) -> None:
        self.uri = config.uri
        try:
            self.files, self.root = fsspec.core.url_to_fs(config.uri)
        except (ImportError, ValueError) as error:
            raise InputError(f"{config.uri}: {error}") from error

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        end = None if start is None else start + (length or 0)
        try:
            data: bytes = self.files.cat_file(f"{self.root}/{key}", start=start, end=end)
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self.uri}/{key}") from error
        return data

    def put(self, key: str, data: bytes) -> None:
        raise StoreError(f"{self.uri}: this kind of store is read-only here; write to s3:// or file://")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return False

    def exists(self, key: str) -> bool:
        return bool(self.files.isfile(f"{self.root}/{key}"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for path, info in sorted(self.files.find(self.root, detail=True).items()):
            key = path.removeprefix(self.root).lstrip("/")
            if key.startswith(prefix):
                yield ObjectInfo(key, int(info["size"]))

    def delete(self, key: str) -> None:
        self.put(key, b"")

    def create(self) -> None:
        self.put("", b"")


def _with_retry(work: Callable[[], T], broken: tuple[type[Exception], ...]) -> T:
    for attempt in range(GET_ATTEMPTS - 1):
        try:
            return work()
        except broken:
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return work()
