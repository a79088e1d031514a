"""Image files that no camera writes."""

from __future__ import annotations

import struct
import zlib


def png_without_pixels(height: int, width: int) -> bytes:
    """A complete grey PNG with valid checksums whose pixel data is not a zlib stream, so it cannot be decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", b"no pixels" * 50) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
