"""A file of which only some ranges are at hand."""

from __future__ import annotations

import io
from collections.abc import Callable


class SparseFile(io.RawIOBase):
    """A file with the bytes of some ranges, for readers of formats that have a directory.

    Args:
        size: Size of the whole file, in bytes.
        parts: The bytes that are at hand, by their offset. More may be added later.
        fetch: Reads a range that is not at hand, by its offset and length. None: reading outside the parts is an error.
    """

    def __init__(self, size: int, parts: dict[int, bytes], fetch: Callable[[int, int], bytes] | None = None) -> None:
        self._size, self._parts, self._fetch, self._position = size, parts, fetch, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"byte {base + offset} is before the file")
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        end = self._size if size < 0 else min(start + size, self._size)
        data = self.held(start, end)
        if data is None and self._fetch:
            data = self._fetch(start, end - start)
        if data is None:
            raise OSError(f"bytes {start}..{end} were not fetched")
        self._position += len(data)
        return data

    def held(self, start: int, end: int) -> bytes | None:
        """Return the bytes of a range, None if they are not at hand."""
        for offset, data in self._parts.items():
            if offset <= start and end <= offset + len(data):
                return data[start - offset : end - offset]
        return None
