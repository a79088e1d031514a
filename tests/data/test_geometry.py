from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.data.geometry import MODES, InputFit, box_of, plan_fit, to_network, to_source

STRIDE = 32


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aspect", np.geomspace(0.25, 4, 25).tolist())
def test_a_blob_is_found_where_it_was_planted(mode: str, aspect: float) -> None:
    height, width = round(500 * aspect**0.5), round(500 / aspect**0.5)
    fit = plan_fit(mode, height, width, 256 * 256, stride=STRIDE, min_side=64)
    for y, x in ((0.15, 0.2), (0.5, 0.5), (0.8, 0.9)):
        image = np.zeros((height, width, 3), np.uint8)
        centre = (int(y * height), int(x * width))
        cv2.circle(image, centre[::-1], 12, (255, 255, 255), -1)
        heat = to_source(to_network(image, fit)[..., 0].astype(np.float32), fit, height, width)
        assert heat.shape == (height, width)
        found = np.unravel_index(cv2.GaussianBlur(heat, (0, 0), 4).argmax(), heat.shape)
        assert abs(found[0] - centre[0]) <= 3
        assert abs(found[1] - centre[1]) <= 3


sides = st.integers(1, 3000)


@given(mode=st.sampled_from(MODES), height=sides, width=sides, pixels=st.integers(32 * 32, 10**6))
@settings(deadline=None)
def test_every_plan_fits_the_network(mode: str, height: int, width: int, pixels: int) -> None:
    fit = plan_fit(mode, height, width, pixels, stride=STRIDE, min_side=64)
    assert fit.height % STRIDE == fit.width % STRIDE == 0
    assert min(fit.height, fit.width) >= 64
    if mode in ("letterbox", "squash"):
        assert fit.height == fit.width
    box = box_of(fit, height, width)
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= fit.height
    assert box.left + box.width <= fit.width


@given(mode=st.sampled_from(MODES), height=st.integers(1, 90), width=st.integers(1, 90))
@settings(deadline=None)
def test_images_and_maps_of_any_size_pass(mode: str, height: int, width: int) -> None:
    fit = InputFit(mode, 32, 64)
    assert to_network(np.zeros((height, width, 3), np.uint8), fit).shape == (32, 64, 3)
    assert to_source(np.zeros((32, 64), np.float32), fit, height, width).shape == (height, width)


def test_the_aspect_is_kept_but_for_squash() -> None:
    for mode, expected in (("native", 2.0), ("letterbox", 2.0), ("squash", 1.0)):
        fit = plan_fit(mode, 400, 800, 256 * 256, stride=STRIDE, min_side=64)
        box = box_of(fit, 400, 800)
        assert box.width / box.height == pytest.approx(expected, rel=0.02)


def test_a_least_side_keeps_the_aspect_too() -> None:
    fit = plan_fit("native", 160, 480, 256 * 256, stride=STRIDE, min_side=256)
    assert (fit.height, fit.width) == (256, 768)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="stretch"):
        plan_fit("stretch", 10, 10, 1024, stride=32, min_side=32)
