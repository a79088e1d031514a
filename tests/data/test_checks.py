from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from raybench.data.checks import ImageFacts, check_image, fit_mask
from raybench.data.decode import decode_image, decode_mask
from raybench.errors import RejectedImage

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
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_by_the_lines_white(suffix: str, channels: int) -> None:
    opaque = np.full_like(DEEP, 65535)
    data = encoded(suffix, DEEP if channels == 1 else np.dstack([DEEP, DEEP, DEEP, opaque][:channels]))
    assert check_image(data).highest == DEEP.max()
    found = decode_image(data, 4095)
    assert np.array_equal(found[..., 0], np.rint(DEEP * (255 / 4095)).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 2])


def test_the_band_leaves_out_dead_and_hot_pixels() -> None:
    pixels = np.full((200, 300), 900, np.uint16)
    pixels[:2, :3] = 60000
    pixels[7:9, :3] = 0
    facts = check_image(encoded(".png", pixels))
    assert (facts.highest, facts.band) == (60000, (900, 900))
    pixels[2, 0] = 60000
    assert check_image(encoded(".png", pixels)).band == (900, 60000)
    assert check_image(encoded(".png", pixels[:1, :1])).band == (60000, 60000)
    assert check_image(encoded(".png", GREY)).band is None


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


def spot(value: int, base: int = 0) -> npt.NDArray[np.uint8]:
    mask = np.full((20, 30), base, np.uint8)
    mask[3:9, 7:19] = value
    return mask


SPOT = spot(1) > 0
FACTS = ImageFacts(20, 30, None)
OPAQUE, CLEAR = np.full((20, 30), 255, np.uint8), np.zeros((20, 30), np.uint8)


@pytest.mark.parametrize("value", [1, 2, 100, 236, 255])
def test_plain_masks_are_packed_as_they_are(value: int) -> None:
    mask = spot(value)
    for pixels in (mask, np.dstack([mask] * 3), np.dstack([mask, mask, mask, OPAQUE]), np.dstack([CLEAR, CLEAR, mask])):
        data = encoded(".png", pixels)
        fitted = fit_mask(data, FACTS)
        assert fitted.data == data
        assert fitted.faint == 0
        assert np.array_equal(fitted.mask, SPOT)
        assert np.array_equal(decode_mask(data, 20, 30), SPOT)


CLASSES = spot(2)
CLASSES[15:, 20:] = 1
SOFT = spot(255)
SOFT[2, 7:19] = 100


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.dstack([OPAQUE, OPAQUE, OPAQUE, spot(255)]), SPOT),  # white everywhere, the mask in alpha
        (np.dstack([CLEAR, CLEAR, CLEAR, spot(255)]), SPOT),  # black everywhere, the mask in alpha
        (np.dstack([spot(255), spot(255), spot(255), spot(200)]), SPOT),
        (np.dstack([CLASSES, CLASSES, CLASSES, CLEAR]), CLASSES > 0),  # alpha says nothing
        (np.dstack([OPAQUE, OPAQUE, OPAQUE, OPAQUE]), OPAQUE > 0),
        (CLASSES, CLASSES > 0),
        (SOFT, SPOT),
        (spot(0, 255), ~SPOT),
        (spot(255).astype(np.uint16) * 257, SPOT),
    ],
)
def test_a_mask_is_packed_as_it_is_meant(pixels: npt.NDArray[Any], expected: npt.NDArray[np.bool_]) -> None:
    fitted = fit_mask(encoded(".png", pixels), FACTS)
    assert np.array_equal(fitted.mask, expected)
    assert np.array_equal(decode_mask(fitted.data, 20, 30), expected)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_ringing_of_jpeg_is_not_in_the_mask(quality: int) -> None:
    _, data = cv2.imencode(".jpg", spot(255), [cv2.IMWRITE_JPEG_QUALITY, quality])
    fitted = fit_mask(data.tobytes(), FACTS)
    assert np.array_equal(fitted.mask, SPOT)
    assert np.array_equal(decode_mask(fitted.data, 20, 30), SPOT)
    assert fitted.faint == 0


def test_what_a_mask_leaves_out_is_counted() -> None:
    assert fit_mask(encoded(".png", SOFT), FACTS).faint == 12


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "mask_unreadable"),
        (b"junk", "mask_unreadable"),
        (encoded(".png", RNG.integers(0, 256, (20, 30), dtype=np.uint8)), "mask_picture"),
    ],
)
def test_masks_that_cannot_be_used(data: bytes, expected: str) -> None:
    with pytest.raises(RejectedImage) as caught:
        fit_mask(data, FACTS)
    assert caught.value.reason == expected


def test_a_mask_of_another_size() -> None:
    with pytest.raises(RejectedImage, match="mask_size"):
        fit_mask(encoded(".png", GREY), ImageFacts(30, 20, None))


ORIENTATIONS = range(1, 9)


def with_orientation(form: str, pixels: npt.NDArray[np.uint8], orientation: int) -> bytes:
    sink = io.BytesIO()
    if form == "TIFF":
        Image.fromarray(pixels).save(sink, form, tiffinfo={274: orientation})
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(sink, form, exif=exif)
    return sink.getvalue()


def as_shown(data: bytes) -> npt.NDArray[np.uint8]:
    """As Pillow's own transposition shows it: the judge of ours."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_an_image_is_turned_as_its_exif_says(form: str, orientation: int) -> None:
    smooth = np.asarray(cv2.GaussianBlur(COLOUR, (0, 0), 3), np.uint8)
    data = with_orientation(form, smooth, orientation)
    shown = as_shown(data)
    facts = check_image(data)
    found = decode_image(data)
    assert facts == ImageFacts(shown.shape[0], shown.shape[1], None, orientation)
    assert found.shape == shown.shape
    assert np.abs(found.astype(int) - shown).max() <= (4 if form == "JPEG" else 0)
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_a_mask_drawn_on_the_stored_pixels_is_turned_with_its_image(form: str, orientation: int) -> None:
    spot = np.zeros((24, 40, 3), np.uint8)
    spot[2:6, 30:36] = 255
    image, mask = with_orientation(form, spot, orientation), encoded(".png", spot[..., 0])
    facts = check_image(image)
    fitted = decode_mask(fit_mask(mask, facts).data, facts.height, facts.width)
    assert np.array_equal(fitted, decode_image(image)[..., 0] > 127)
    if orientation == 1:
        assert fit_mask(mask, facts).data == mask


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_on_the_turned_image_is_taken_as_it_is(orientation: int) -> None:
    spot = np.zeros((24, 40, 3), np.uint8)
    spot[2:6, 30:36] = 255
    image = with_orientation("PNG", spot, orientation)
    mask = encoded(".png", decode_image(image)[..., 0])
    assert fit_mask(mask, check_image(image)).data == mask


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_mask_with_an_orientation_of_its_own_is_turned_by_that(form: str, orientation: int) -> None:
    spot = np.zeros((24, 40, 3), np.uint8)
    spot[2:6, 30:36] = 255
    image, mask = with_orientation("JPEG", spot, orientation), with_orientation(form, spot, orientation)
    facts = check_image(image)
    assert fit_mask(mask, facts).data == mask or orientation == 1
    assert np.array_equal(decode_mask(mask, facts.height, facts.width), decode_image(image)[..., 0] > 127)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    sink = io.BytesIO()
    Image.fromarray(COLOUR).save(sink, "PNG", exif=exif)
    assert check_image(sink.getvalue()) == ImageFacts(20, 30, None)
    assert np.array_equal(decode_image(sink.getvalue()), COLOUR)
