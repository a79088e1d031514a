from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.report.gallery import (
    HEAT_EDGE,
    HeatMap,
    Picture,
    colour_tables,
    heat_codes,
    outline_path,
    shrink,
    small_size,
)

FINITE = st.floats(-1e6, 1e6, width=32)


def test_codes_are_proportional_below_the_hottest_ok_image_and_logarithmic_above() -> None:
    heat = np.array([-1, 0, 0.5, 1, 2, 4, 32, 1000], np.float32)
    assert heat_codes(heat, 0.0, 1.0).tolist() == [0, 0, 64, 127, 153, 178, 255, 255]


def test_without_a_span_everything_hotter_is_bright() -> None:
    assert heat_codes(np.array([1, 1.5], np.float32), 1.0, 1.0).tolist() == [0, 255]


@given(st.lists(FINITE, min_size=2), FINITE, st.floats(0, 1e6, width=32))
def test_hotter_is_never_darker(heat: list[float], low: float, span: float) -> None:
    codes = heat_codes(np.array(sorted(heat), np.float32), low, low + span)
    assert (np.diff(codes.astype(int)) >= 0).all()


def test_a_strip_holds_each_map_within_its_edges() -> None:
    codes = [np.full((20, 30), value, np.uint8) for value in (0, 100, 250)]
    codes[1][:, ::2] = 102
    codes[1][10:] = 200
    image = np.zeros((40, 60, 3), np.uint8)
    picture = Picture(
        "a", "b", "ng", {}, image, "", tuple(HeatMap(str(at), each, 101) for at, each in enumerate(codes))
    )
    data = base64.b64decode(picture.strip_uri.removeprefix("data:image/webp;base64,"))
    strip = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    pitch = 20 + 2 * HEAT_EDGE
    assert strip is not None
    assert strip.shape == (3 * pitch, 30)
    for at, each in enumerate(codes):
        found = strip[at * pitch + HEAT_EDGE :][:20]
        assert (found > 101).tolist() == (each > 101).tolist()  # as the page asks: hotter than the limit
        assert np.abs(found - each.astype(int)).max() < 4


def test_a_picture_without_heat_maps_or_mask() -> None:
    picture = Picture("a", "b", "ok", {}, shrink(np.zeros((4, 4000, 3), np.uint8)))
    assert (picture.strip_uri, picture.outline) == ("", "")
    assert picture.image.shape == (1, 320, 3)
    assert picture.image_uri.startswith("data:image/webp;base64,")


def test_an_outline_surrounds_the_mask() -> None:
    mask = np.zeros((1000, 2000), bool)
    mask[250:500, 500:1000] = True
    mask[900, 1900] = True  # a pixel must not vanish when the mask is made small
    places = np.array(re.findall(r"(\d+) (\d+)", outline_path(mask)), int)
    large, small = places[:-1], places[-1]
    assert np.allclose(large.min(axis=0), [250, 250], atol=8)
    assert np.allclose(large.max(axis=0), [500, 500], atol=8)
    assert np.allclose(small, [950, 900], atol=8)
    assert outline_path(np.zeros((4, 4), bool)) == ""


def test_no_side_vanishes() -> None:
    assert small_size(1, 4000, 96) == (1, 96)
    assert small_size(10, 20, 96) == (10, 20)


def test_colours_run_from_black_to_bright() -> None:
    red, green, blue = (table.split() for table in colour_tables())
    assert [float(part[0]) for part in (red, green, blue)] == pytest.approx([0, 0, 0.01], abs=0.02)
    assert min(float(part[-1]) for part in (red, green)) > 0.9
