from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.errors import IntegrityError
from raybench.metrics.small_maps import SmallMaps, heat_codes, small_size

FINITE = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9))), st.randoms())
def test_maps_of_all_sizes_come_back(sizes: list[tuple[int, int]], order: Random) -> None:
    rng = np.random.default_rng(len(sizes))
    maps = {f"image-{at}": rng.integers(0, 256, size).astype(np.uint8) for at, size in enumerate(sizes)}
    read = SmallMaps.from_bytes(SmallMaps.of(list(maps), list(maps.values())).to_bytes())
    wanted = {name for name in maps if order.random() < 0.5} | {"another"}
    found = read.only(wanted)
    assert found.keys() == maps.keys() & wanted
    assert all(np.array_equal(found[name], maps[name]) for name in found)


def test_every_image_has_one() -> None:
    with pytest.raises(IntegrityError, match="1 small heat maps of 2 images"):
        SmallMaps.of(["a", "b"], [np.zeros((2, 2), np.uint8)])


def test_other_bytes_are_refused() -> None:
    with pytest.raises(IntegrityError, match="small heat maps"):
        SmallMaps.from_bytes(b"PK")


def test_codes_are_proportional_below_the_hottest_ok_image_and_logarithmic_above() -> None:
    heat = np.array([-1, 0, 0.5, 1, 2, 4, 32, 1000], np.float32)
    assert heat_codes(heat, 0.0, 1.0).tolist() == [0, 0, 64, 127, 153, 178, 255, 255]


def test_without_a_span_everything_hotter_is_bright() -> None:
    assert heat_codes(np.array([1, 1.5], np.float32), 1.0, 1.0).tolist() == [0, 255]


@given(st.lists(FINITE, min_size=2), FINITE, st.floats(0, 1e6, width=32))
def test_hotter_is_never_darker(heat: list[float], low: float, span: float) -> None:
    codes = heat_codes(np.array(sorted(heat), np.float32), low, low + span)
    assert (np.diff(codes.astype(int)) >= 0).all()


def test_no_side_vanishes() -> None:
    assert small_size(1, 4000) == (1, 96)
    assert small_size(10, 20) == (10, 20)
