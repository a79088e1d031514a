from __future__ import annotations

import base64
import re

import cv2
import numpy as np
import pytest

from raybench.report.gallery import (
    HEAT_EDGE,
    HeatMap,
    Picture,
    colour_tables,
    outline_path,
    shrink,
)


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


def test_colours_run_from_black_to_bright() -> None:
    red, green, blue = (table.split() for table in colour_tables())
    assert [float(part[0]) for part in (red, green, blue)] == pytest.approx([0, 0, 0.01], abs=0.02)
    assert min(float(part[-1]) for part in (red, green)) > 0.9
