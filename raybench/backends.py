"""What stands behind a `Store`: S3 through boto3, a folder, and read-only everything else through fsspec."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
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
import urllib3
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
LONGEST_PAUSE_S = 5.0

_DENIED = {
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}
_EXISTS = {"412", "PreconditionFailed"}
_BUSY = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "TooManyRequests"}
_UNREACHABLE = (
    boto_errors.EndpointConnectionError,
    boto_errors.ConnectTimeoutError,
    boto_errors.ProxyConnectionError,
)
_SERVER_ERROR = 500
# botocore retries the request, never the reading of its body
_BROKEN_BODY = (
    boto_errors.ResponseStreamingError,
    boto_errors.IncompleteReadError,
    boto_errors.ReadTimeoutError,
    boto_errors.ConnectionClosedError,
    urllib3.exceptions.HTTPError,  # as it is, where the body of an error was being read
)


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
        if config.ca_bundle and not Path(config.ca_bundle).exists():
            raise InputError(f"{config.ca_bundle}: there is no such file; it is to be the CA bundle of the store")
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
        """`work`, again and again while the server is in trouble and there is patience left."""
        end, pause_s = time.monotonic() + self.config.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return self._once(work, key)
            except StoreUnreachable:
                if time.monotonic() + pause_s > end:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _once(self, work: Callable[[], T], key: str) -> T:
        where = f"s3://{self.bucket}/{self._key(key)}"
        try:
            return work()
        except _UNREACHABLE as error:
            endpoint = self.config.endpoint_url or "the default AWS endpoint"
            raise StoreUnreachable(f"{where}: no answer from {endpoint} ({type(error).__name__}); is it up?") from error
        except boto_errors.SSLError as error:
            raise StoreUnreachable(
                f"{where}: the certificate of {self.config.endpoint_url} is not trusted ({error}); name the bundle of "
                "its authority with `storage: {ca_bundle: FILE}` or AWS_CA_BUNDLE"
            ) from error
        except (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError) as error:
            raise StoreDenied(
                f"{where}: no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            ) from error
        except boto_errors.ProfileNotFound as error:
            raise StoreDenied(f"{where}: {error}") from error
        except boto_errors.ClientError as error:
            raise self._named(error, where) from error
        except (*_BROKEN_BODY, boto_errors.HTTPClientError) as error:
            raise StoreUnreachable(f"{where}: the connection broke off ({type(error).__name__})") from error
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
        if code in _BUSY or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= _SERVER_ERROR:
            return StoreUnreachable(f"{where}: the server is in trouble ({code})")
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
        # Page by page here: a paginator that met an error ends, and what it listed would look like all there is.
        cut = len(self.root) + 1 if self.root else 0
        wanted = {"Bucket": self.bucket, "Prefix": self._key(prefix) if prefix or self.root else ""}
        while True:
            page = self._call(functools.partial(self.client.list_objects_v2, **wanted), prefix)
            for item in page.get("Contents", ()):
                yield ObjectInfo(item["Key"][cut:], int(item["Size"]))
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

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
            with open(self.root / key, "rb", opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ObjectMissing(f"{self.root / key} is not a file")  # a pipe or a device may never end
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
        with _named_after(self.root / key):
            return (self.root / key).is_file()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder = self.root / prefix.rpartition("/")[0]
        found = []
        for parent, _, names in os.walk(folder, onerror=self._unless_missing):
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(".writing-"):
                    found.append((key, path))
        for key, path in sorted(found):
            yield ObjectInfo(key, _size(path))

    def _unless_missing(self, error: OSError) -> None:
        """A folder that cannot be read must not look like an empty one."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoreError(f"{error.filename}: {error.strerror}") from error

    def delete(self, key: str) -> None:
        with _named_after(self.root / key):
            (self.root / key).unlink(missing_ok=True)

    def create(self) -> None:
        with _named_after(self.root):
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
        with _fsspec_errors(f"{self.uri}/{key}"):
            data: bytes = self.files.cat_file(f"{self.root}/{key}", start=start, end=end)
        return data

    def put(self, key: str, data: bytes) -> None:
        raise StoreError(f"{self.uri}: this kind of store is read-only here; write to s3:// or file://")

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return False

    def exists(self, key: str) -> bool:
        with _fsspec_errors(f"{self.uri}/{key}"):
            return bool(self.files.isfile(f"{self.root}/{key}"))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with _fsspec_errors(self.uri):
            found = sorted(self.files.find(self.root, detail=True).items())
        for path, info in found:
            key = path.removeprefix(self.root).lstrip("/")
            if key.startswith(prefix):
                yield ObjectInfo(key, int(info["size"]))

    def delete(self, key: str) -> None:
        self.put(key, b"")

    def create(self) -> None:
        self.put("", b"")


@contextlib.contextmanager
def _fsspec_errors(where: str) -> Iterator[None]:
    """fsspec's file systems raise errors of their own libraries, of any kind."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(where) from error
    except Exception as error:
        raise StoreError(f"{where}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _named_after(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _size(path: Path) -> int:
    """Bytes; 0 for a link that leads nowhere: reading it will say so."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _with_retry(work: Callable[[], T], broken: tuple[type[Exception], ...]) -> T:
    for attempt in range(GET_ATTEMPTS - 1):
        try:
            return work()
        except broken:
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return work()
