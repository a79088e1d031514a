"""Backend for S3 and compatible servers, through boto3."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlparse

import boto3
import botocore.exceptions as boto_errors
import botocore.session
import urllib3
from botocore.config import Config
from botocore.loaders import Loader

from raybench.errors import BucketMissing, InputError, ObjectMissing, StoreDenied, StoreError, StoreUnreachable
from raybench.store.backend import ObjectInfo, StoreConfig

T = TypeVar("T")

GET_ATTEMPTS = 6
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0

_SHOWN = {  # without a type, browsers save a page instead of showing it
    ".html": {"ContentType": "text/html; charset=utf-8", "CacheControl": "no-cache"},
    ".json": {"ContentType": "application/json"},
    ".webp": {"ContentType": "image/webp", "CacheControl": "public, max-age=31536000, immutable"},
    ".csv": {"ContentType": "text/csv; charset=utf-8"},
    ".md": {"ContentType": "text/markdown; charset=utf-8"},
}
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
# botocore retries requests, but not the reading of a response's body.
_BROKEN_BODY = (
    boto_errors.ResponseStreamingError,
    boto_errors.IncompleteReadError,
    boto_errors.ReadTimeoutError,
    boto_errors.ConnectionClosedError,
    urllib3.exceptions.HTTPError,  # not wrapped by botocore while it reads the body of an error response
)


class _ApiModels(Loader):  # type: ignore[misc]
    """The descriptions of AWS services. What is parsed once is kept."""

    @property
    def search_paths(self) -> list[str]:
        """A copy, because each boto3.Session appends to it; what it appends is for boto3's resources alone."""
        return list(self._search_paths)


@functools.cache
def _api_models() -> Loader:
    """Return the descriptions that all clients of this process share. To parse them takes 0.14 s of CPU."""
    models = _ApiModels([path for path in os.environ.get("AWS_DATA_PATH", "").split(os.pathsep) if path])
    models.load_service_model("s3", "service-2")  # changes what it has parsed, so before a thread may read it
    return models


class S3:
    """A backend on a bucket, or on a prefix of it."""

    def __init__(self, config: StoreConfig) -> None:
        parsed = urlparse(config.uri)
        if config.ca_bundle and not Path(config.ca_bundle).exists():
            raise InputError(f"{config.ca_bundle}: there is no such file; it is named as the CA bundle of the store")
        self.config = config
        self.bucket = parsed.netloc
        self.root = parsed.path.strip("/")
        core = botocore.session.get_session()
        core.register_component("data_loader", _api_models())
        session = boto3.Session(
            botocore_session=core, profile_name=config.profile or None, region_name=config.region or None
        )
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
                proxies={} if _on_this_machine(config.endpoint_url) else None,  # None: the environment's
            ),
        )

    def _key(self, key: str) -> str:
        return f"{self.root}/{key}" if self.root else key

    def _call(self, work: Callable[[], T], key: str = "") -> T:
        """Call `work`, and retry for up to `patience_s` while the server is unreachable or fails."""
        deadline, pause_s = time.monotonic() + self.config.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return self._call_once(work, key)
            except StoreUnreachable:
                if time.monotonic() + pause_s > deadline:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _call_once(self, work: Callable[[], T], key: str) -> T:
        """Call `work`, with the errors of boto3 converted to the store's."""
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
            raise self._store_error(error, where) from error
        except (*_BROKEN_BODY, boto_errors.HTTPClientError) as error:
            raise StoreUnreachable(f"{where}: the connection broke off ({type(error).__name__})") from error
        except boto_errors.BotoCoreError as error:
            raise StoreError(f"{where}: {error}") from error

    def _store_error(self, error: boto_errors.ClientError, where: str) -> Exception:
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
        byte_range = {} if start is None else {"Range": f"bytes={start}-{start + (length or 1) - 1}"}

        def read() -> bytes:
            try:
                response = self.client.get_object(Bucket=self.bucket, Key=self._key(key), **byte_range)
            except boto_errors.ClientError as error:
                if error.response["Error"].get("Code") == "InvalidRange":  # it begins beyond the object's end
                    return b""
                raise
            data: bytes = response["Body"].read()
            return data

        return self._call(lambda: _with_retry(read, _BROKEN_BODY), key)

    def put(self, key: str, data: bytes, kind: str = "") -> None:
        about = dict(_SHOWN.get(PurePosixPath(key).suffix, {}))
        if kind and self.config.tags:
            about["Tagging"] = f"raybench={kind}"
        self._call(lambda: self.client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **about), key)

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
        # boto3's paginator ends after an error that is retried, and its listing would look complete. So pages are
        # requested one by one.
        root_length = len(self.root) + 1 if self.root else 0
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                modified = item["LastModified"].timestamp()
                yield ObjectInfo(item["Key"][root_length:], int(item["Size"]), item.get("ETag", ""), modified)

    def folders(self, prefix: str) -> Iterator[str]:
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"].removeprefix(self._key(prefix)).strip("/")

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        request = {"Bucket": self.bucket, "Prefix": self._key(prefix) if prefix or self.root else ""} | options
        while True:
            page = self._call(functools.partial(self.client.list_objects_v2, **request), prefix)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        self._call(lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(key)), key)

    def clock(self) -> float:
        request = {"Bucket": self.bucket, "Prefix": self._key(""), "MaxKeys": 1}
        answer = self._call(lambda: self.client.list_objects_v2(**request))
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def create(self) -> None:
        try:
            self._call(lambda: self.client.create_bucket(Bucket=self.bucket))
        except StoreError as error:
            if "BucketAlreadyOwnedByYou" not in str(error) and "BucketAlreadyExists" not in str(error):
                raise


def _with_retry(work: Callable[[], T], errors: tuple[type[Exception], ...]) -> T:
    for attempt in range(GET_ATTEMPTS - 1):
        try:
            return work()
        except errors:
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    return work()


def _on_this_machine(endpoint_url: str) -> bool:
    """Whether the endpoint is on loopback, which a proxy of `http_proxy` cannot reach."""
    host = urlparse(endpoint_url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")
