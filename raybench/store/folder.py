"""Backend for a folder, local or shared."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from raybench.errors import ObjectMissing, StoreError
from raybench.store.backend import ObjectInfo, StoreConfig


class Folder:
    """A backend whose objects are files. Writes go to a temporary file first, so an object is never partial."""

    def __init__(self, config: StoreConfig) -> None:
        self.root = Path(unquote(urlparse(config.uri).path))

    def get(self, key: str, start: int | None, length: int | None) -> bytes:
        try:
            with open(self.root / key, "rb", opener=_open_nonblocking) as file:
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

    def put(self, key: str, data: bytes, kind: str = "") -> None:
        with self._temporary(key, data) as temporary:
            temporary.replace(self.root / key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._temporary(key, data) as temporary:
            try:
                (self.root / key).hardlink_to(temporary)
            except FileExistsError:
                return False
            return True

    @contextlib.contextmanager
    def _temporary(self, key: str, data: bytes) -> Iterator[Path]:
        """Write data to a temporary file beside the object, and remove it afterwards if it is still there."""
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
        with _store_errors(self.root / key):
            return (self.root / key).is_file()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List objects. Links to folders are followed."""
        folder = self.root / prefix.rpartition("/")[0]
        files = []
        for parent, folders, names in os.walk(folder, onerror=self._raise_unless_missing, followlinks=True):
            for name in folders:
                self._refuse_loop(Path(parent, name))
            for name in names:
                path = Path(parent, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(".writing-"):
                    files.append((key, path))
        for key, path in sorted(files):
            yield _info(key, path)

    def folders(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix
        with _store_errors(folder):
            yield from sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()

    def _raise_unless_missing(self, error: OSError) -> None:
        """Raise for a folder that cannot be read, which must not look like an empty one."""
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise StoreError(f"{error.filename}: {error.strerror}") from error

    def _refuse_loop(self, folder: Path) -> None:
        """Raise for a link to a folder that holds the link itself, by whatever path it was reached."""
        if not folder.is_symlink():
            return
        target = folder.resolve()
        above = itertools.takewhile(lambda parent: parent != self.root.parent, folder.parents)
        if any(parent.resolve().is_relative_to(target) for parent in above):
            raise StoreError(f"{folder} is a link to {target}, which holds it; remove the link")

    def delete(self, key: str) -> None:
        with _store_errors(self.root / key):
            (self.root / key).unlink(missing_ok=True)

    def clock(self) -> float:
        """Return the time that a new file gets; on a shared folder it is the server's."""
        with self._temporary(".clock", b"") as temporary:
            return temporary.stat().st_mtime

    def create(self) -> None:
        with _store_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file without blocking, as opening a named pipe without a writer would."""
    return os.open(path, flags | os.O_NONBLOCK)


def _info(key: str, path: Path) -> ObjectInfo:
    """Describe a file. A dangling link has 0 bytes here; reading it raises an error."""
    try:
        status = path.stat()
    except OSError:
        return ObjectInfo(key, 0)
    return ObjectInfo(key, status.st_size, str(status.st_mtime_ns), status.st_mtime)
