from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raybench.errors import (
    BucketMissing,
    InputError,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    UnsafeStore,
)
from raybench.store import Store, open_store, s3
from raybench.store.backend import ObjectInfo
from raybench.store.folder import Folder
from raybench.store.server import EmbeddedServer


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        found: Store = request.getfixturevalue("bucket")
        return found.sub("some/prefix")
    return open_store(str(tmp_path / "store"))


def test_what_is_put_is_got(store: Store) -> None:
    store.put("a/b", b"0123456789")
    assert store.get("a/b") == b"0123456789"
    assert store.exists("a/b")
    store.put("a/b", b"new")
    assert store.get("a/b") == b"new"


def test_a_browser_shows_a_page_in_a_bucket(bucket: Store) -> None:
    for key in ("report/index.html", "report/board.json"):
        bucket.put(key, b"<p>")
    client = boto3.client("s3")
    name, _, prefix = bucket.uri().removeprefix("s3://").partition("/")
    page, board = (
        client.head_object(Bucket=name, Key=f"{prefix}/report/{file}") for file in ("index.html", "board.json")
    )
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert page["CacheControl"] == "no-cache"
    assert board["ContentType"] == "application/json"


def test_objects_have_their_kind_as_a_tag_where_that_is_asked_for(bucket: Store) -> None:
    tagging = open_store(bucket.uri(), endpoint_url=bucket.config.endpoint_url, tags=True)
    tagging.put("a", b"1", kind="scores")
    tagging.put("b", b"1")
    bucket.put("c", b"1", kind="scores")
    client = boto3.client("s3")
    name, _, prefix = bucket.uri().removeprefix("s3://").partition("/")
    found = {key: client.get_object_tagging(Bucket=name, Key=f"{prefix}/{key}")["TagSet"] for key in "abc"}
    assert found == {"a": [{"Key": "raybench", "Value": "scores"}], "b": [], "c": []}


def test_ranges(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", 3, 4) == b"3456"
    assert store.get_range("k", 8, 100) == b"89"
    assert store.get_range("k", 10, 5) == store.get_range("k", 99, 1) == b""
    assert store.get_range("k", 0, 0) == b""


def test_list_is_sorted_and_relative(store: Store) -> None:
    for key in ("b/2", "a", "b/1", "bc"):
        store.put(key, key.encode())
    assert list(store.list()) == [
        ObjectInfo("a", 1),
        ObjectInfo("b/1", 3),
        ObjectInfo("b/2", 3),
        ObjectInfo("bc", 2),
    ]
    assert [item.key for item in store.list("b/")] == ["b/1", "b/2"]
    assert [item.key for item in store.sub("b").list()] == ["1", "2"]
    assert list(store.list("none/")) == []


def test_a_stamp_tells_that_an_object_was_written_again(store: Store) -> None:
    store.put("k", b"one")
    [before] = store.list()
    [same] = store.list()
    store.put("k", b"two")
    [after] = store.list()
    assert before.stamp
    assert before.stamp == same.stamp
    assert before.stamp != after.stamp


def test_delete(store: Store) -> None:
    store.put("k", b"1")
    store.delete("k")
    store.delete("k")
    assert not store.exists("k")
    with pytest.raises(ObjectMissing):
        store.get("k")
    with pytest.raises(ObjectMissing):
        store.get_range("k", 0, 1)


def test_of_many_writers_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        wins = list(pool.map(lambda n: (n, store.put_if_absent("marker", b"%d" % n)), range(16)))
    winners = [number for number, won in wins if won]
    assert len(winners) == 1
    assert store.get("marker") == b"%d" % winners[0]


def test_self_test_passes_and_leaves_nothing(store: Store) -> None:
    store.check()
    assert list(store.list()) == []


def test_self_test_refuses_a_store_that_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: object, key: str, data: bytes) -> bool:
        self.put(key, data)  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(Folder, "put_if_absent", careless)
    with pytest.raises(UnsafeStore, match="If-None-Match"):
        open_store(str(tmp_path)).check()


@given(data=st.binary(max_size=2000), start=st.integers(0, 2100), length=st.integers(0, 2100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_a_range_is_a_slice(tmp_path: Path, data: bytes, start: int, length: int) -> None:
    store = open_store(str(tmp_path))
    store.put("k", data)
    assert store.get_range("k", start, length) == data[start : start + length]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a\0b"])
def test_keys_stay_below_the_root(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError):
        open_store(str(tmp_path / "root")).put(key, b"")


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///prefix"])
def test_a_uri_that_names_nothing(uri: str) -> None:
    with pytest.raises(InputError):
        open_store(uri)


def test_pickles_without_keys(server: EmbeddedServer, bucket: Store) -> None:
    bucket.put("k", b"1")
    pickled = pickle.dumps(bucket)
    assert server.secret_key.encode() not in pickled
    assert server.access_key.encode() not in pickled
    assert pickle.loads(pickled).get("k") == b"1"  # noqa: S301
    assert server.secret_key not in repr(bucket)


def test_another_process_reaches_the_same_store(bucket: Store) -> None:
    bucket.put("k", b"1")
    code = f"from raybench.store import open_store; print(open_store({bucket.uri()!r}).get('k'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "b'1'"


def test_missing_bucket(server: EmbeddedServer) -> None:
    with pytest.raises(BucketMissing, match="no-such-bucket"):
        open_store("s3://no-such-bucket").put("k", b"")


def test_wrong_credentials(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied) as caught:
        open_store(bucket.uri()).get("k")
    assert os.environ["AWS_ACCESS_KEY_ID"] not in str(caught.value)


def test_no_credentials(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StoreDenied, match="no credentials"):
        open_store(bucket.uri()).get("k")


@pytest.mark.usefixtures("short_pauses")
def test_nobody_listens(server: EmbeddedServer) -> None:
    with pytest.raises(StoreUnreachable, match="is it up"):
        open_store("s3://bucket", endpoint_url="http://127.0.0.1:9").get("k")


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "file")).put("k", b"")


def test_other_schemes_are_read_only() -> None:
    with pytest.raises(StoreError, match="read-only"):
        open_store("memory://x").put("k", b"")


@pytest.fixture
def stuttering() -> Iterator[str]:
    """An S3 endpoint whose first three answers break off in the body."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        for attempt in itertools_count():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                body = b"0123456789" if attempt >= 3 else b"0123"
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n" + body)

    def itertools_count() -> Iterator[int]:
        number = 0
        while not stop.is_set():
            yield number
            number += 1

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    listener.close()


def test_a_body_that_breaks_off_is_read_again(
    stuttering: str, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "FIRST_PAUSE_S", 0.01)
    assert open_store("s3://bucket", endpoint_url=stuttering).get("k") == b"0123456789"


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_bytes(b"a")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "again").symlink_to(tmp_path / "elsewhere")
    store = open_store(str(tmp_path / "store"))
    assert [item.key for item in store.list()] == ["again/a", "linked/a"]
    assert [item.key for item in store.list("linked/")] == ["linked/a"]


@pytest.mark.parametrize("target", ["store", "store/a", ".", "/"])
def test_a_loop_of_links_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "store" / "a").mkdir(parents=True)
    (tmp_path / "store" / "a" / "up").symlink_to(tmp_path / target)
    with pytest.raises(StoreError, match="is a link to"):
        list(open_store(str(tmp_path / "store")).list())


def test_links_that_lead_to_each_other_are_refused(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "other").symlink_to(tmp_path / other)
    with pytest.raises(StoreError, match="is a link to"):
        list(open_store(str(tmp_path / "a")).list())
