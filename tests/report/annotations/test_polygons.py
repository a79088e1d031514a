"""Outlines fill back to the pixels they came from, whatever the reader's rule."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from raybench.report.annotations.polygons import Ring, edges, keyhole, pixels, regions, run_lengths
from tests.support.made_masks import Mask, iou, masks, union

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def filled_inside(ring: Ring, shape: tuple[int, ...]) -> Mask:
    """As COCO's tools do it: what lies inside."""
    (found,) = coco_mask.frPyObjects([edges(ring).ravel().tolist()], *shape)
    return np.asarray(coco_mask.decode(found), np.bool_)


def filled_with_outline(ring: Ring, shape: tuple[int, ...]) -> Mask:
    """As YOLO's tools do it: the outline's own pixels too."""
    canvas = np.zeros(shape, np.uint8)
    return cv2.fillPoly(canvas, [pixels(ring)], 1).astype(np.bool_)


@settings(deadline=None, max_examples=50)
@given(masks())
def test_exact_outlines_are_exact(mask: Mask) -> None:
    found = [keyhole(one.exact) for one in regions(mask)]
    np.testing.assert_array_equal(union((filled_inside(ring, mask.shape) for ring in found), mask.shape), mask)
    drawn = union((filled_with_outline(ring, mask.shape) for ring in found), mask.shape)
    assert iou(drawn, mask) >= 0.99  # a slit may cross a pixel of another hole


@settings(deadline=None, max_examples=50)
@given(masks())
def test_simpler_outlines_are_near(mask: Mask) -> None:
    found = list(regions(mask))
    for fill in (filled_inside, filled_with_outline):
        assert iou(union((fill(keyhole(one.rings), mask.shape) for one in found), mask.shape), mask) >= 0.95


@settings(deadline=None, max_examples=50)
@given(masks())
def test_regions_are_the_connected_components(mask: Mask) -> None:
    count, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    found = list(regions(mask))
    assert len(found) == count - 1
    whole = np.zeros(mask.shape, np.int64)
    for one in found:
        left, top, width, height = one.box
        whole[top : top + height, left : left + width] += one.crop()
    np.testing.assert_array_equal(whole, mask)


def test_a_large_blob_takes_few_points() -> None:
    canvas = np.zeros((1000, 1000), np.uint8)
    cv2.circle(canvas, (500, 500), 300, 1, -1)
    (one,) = regions(canvas.astype(np.bool_))
    assert len(one.exact[0]) > 1000
    assert len(one.rings[0]) < 100
    assert not one.has_holes


def test_nothing_has_no_regions() -> None:
    assert list(regions(np.zeros((4, 5), np.bool_))) == []


@pytest.mark.parametrize(
    ("values", "lengths"),
    [([0, 0, 1], [2, 1]), ([1, 1, 0], [0, 2, 1]), ([0, 0], [2]), ([1], [0, 1])],
)
def test_run_lengths_start_with_false(values: list[int], lengths: list[int]) -> None:
    assert run_lengths(np.array(values, np.bool_)) == lengths
