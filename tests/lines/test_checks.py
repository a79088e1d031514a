from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.errors import RejectedImage
from raybench.lines.checks import check_image, check_mask
from raybench.lines.decode import decode_image, decode_mask

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)


def encoded(suffix: str, pixels: npt.NDArray[Any]) -> bytes:
    _, data = cv2.imencode(suffix, pixels)
    return data.tobytes()


def reason(data: bytes) -> str:
    with pytest.raises(RejectedImage) as caught:
        check_image(data)
    assert caught.value.detail
    return caught.value.reason


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_formats_decode_to_the_same_pixels(suffix: str, pixels: npt.NDArray[np.uint8]) -> None:
    data = encoded(suffix, pixels)
    assert (check_image(data).height, check_image(data).width, check_image(data).highest) == (20, 30, None)
    found = decode_image(data)
    expected = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels[..., ::-1]
    assert np.array_equal(found, expected)
    assert found.flags.writeable


def test_jpeg() -> None:
    smooth = cv2.GaussianBlur(COLOUR, (0, 0), 5)
    data = encoded(".jpg", smooth)
    assert check_image(data).width == 30
    assert np.abs(decode_image(data).astype(int) - smooth[..., ::-1]).mean() < 4


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_by_the_lines_white(suffix: str) -> None:
    data = encoded(suffix, DEEP)
    assert check_image(data).highest == DEEP.max()
    found = decode_image(data, 4095)
    assert np.array_equal(found[..., 0], np.rint(DEEP * (255 / 4095)).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_transparency_is_dropped() -> None:
    transparent = np.dstack([COLOUR, np.zeros((20, 30), np.uint8)])
    assert np.array_equal(decode_image(encoded(".png", transparent)), COLOUR[..., ::-1])


@given(share=st.floats(0.02, 0.97))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_a_file_that_breaks_off_is_rejected(suffix: str, share: float) -> None:
    data = encoded(suffix, cv2.resize(COLOUR, (120, 80)))
    assert reason(data[: int(len(data) * share)]) in ("truncated", "unreadable")


def test_other_reasons() -> None:
    assert reason(b"") == "empty_file"
    assert reason(b"not an image at all") == "unreadable"
    assert reason(b"GIF89a" + bytes(100)) == "unreadable"
    assert reason(png_of_size(0, 10)) in ("zero_size", "truncated", "unreadable")
    flipped = bytearray(encoded(".png", COLOUR))
    flipped[len(flipped) // 2] ^= 1
    assert reason(bytes(flipped)) == "truncated"


@pytest.mark.parametrize("size", [(60_000, 60_000), (20_000, 10_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    assert reason(png_of_size(*size)) == "too_large"


def test_masks() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:5, 7:9] = 1
    for pixels in (mask, np.dstack([mask] * 3), np.dstack([mask, mask, mask, np.full_like(mask, 255)])):
        data = encoded(".png", pixels)
        check_mask(data, 20, 30)
        assert np.array_equal(decode_mask(data, 20, 30), mask > 0)


@pytest.mark.parametrize(("data", "expected"), [(b"", "mask_unreadable"), (b"junk", "mask_unreadable")])
def test_masks_that_cannot_be_read(data: bytes, expected: str) -> None:
    with pytest.raises(RejectedImage) as caught:
        check_mask(data, 20, 30)
    assert caught.value.reason == expected


def test_a_mask_of_another_size() -> None:
    with pytest.raises(RejectedImage, match="mask_size"):
        check_mask(encoded(".png", GREY), 30, 20)
