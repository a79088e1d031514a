"""Masks to outlines: each connected region as rings that every annotation tool fills back to the same pixels.

Tools disagree on what a coordinate means. Most take pixel x to reach from x to x + 1 and fill what lies inside
(COCO, CVAT, Label Studio); YOLO's fill draws the outline's own pixels too. A ring is therefore kept on a grid of half
pixels, where 2x and 2x + 1 are the two halves of pixel x: from there it is exact for both, see `edges` and `pixels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial import KDTree

TOLERANCES = (2.0, 1.0)
"""Half pixels between a simplified outline and the exact one. The first is used that keeps LEAST_IOU."""
LEAST_IOU = 0.97
_NEIGHBOURS = 9

Ring = npt.NDArray[np.int32]
"""(n, 2) x and y in half pixels, closed: the last point is joined to the first."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of a mask. Pixels that touch by a corner are connected."""

    exact: tuple[Ring, ...]
    """The outline, then the outlines of the holes."""
    rings: tuple[Ring, ...]
    """`exact` with fewer points. Their IoU with the region is at least LEAST_IOU."""
    box: tuple[int, int, int, int]
    """x, y, width and height in pixels."""

    @property
    def has_holes(self) -> bool:
        return len(self.exact) > 1

    def crop(self) -> npt.NDArray[np.bool_]:
        """Return the region's pixels within its box, (height, width) bool."""
        left, top, width, height = self.box
        return _filled([ring // 2 - (left, top) for ring in self.exact], height, width)


def regions(mask: npt.NDArray[np.bool_]) -> Iterator[Region]:
    """Yield the regions of a mask, (H, W) bool."""
    halves = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, tree = cv2.findContours(halves, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for at, contour in enumerate(contours):
        if tree[0][at][3] < 0:
            exact = (_ring(contour), *(_ring(contours[hole]) for hole in _holes(tree[0], at)))
            yield Region(exact, _simpler(exact), _box(exact[0]))


def edges(ring: Ring) -> Ring:
    """Return (n, 2) x and y in pixels along the pixels' edges, from 0 to W or H."""
    return _distinct((ring + 1) // 2)


def pixels(ring: Ring) -> Ring:
    """Return (n, 2) x and y of the outermost pixels, from 0 to W - 1 or H - 1."""
    return ring // 2


def keyhole(rings: Sequence[Ring]) -> Ring:
    """Return one ring that leaves the holes out; slits of no width join the rings."""
    after = np.concatenate([np.roll(numbers, -1) for numbers in _numbers(rings)]).tolist()
    places = list(np.concatenate(rings))
    for here, there in _bridges(rings):  # here → there, once around, and back by a copy of each
        places += [places[here], places[there]]
        after += [after[here], after[there]]
        after[here], after[there] = len(after) - 1, len(after) - 2
    order = [0]
    while (at := after[order[-1]]) != 0:
        order.append(at)
    return np.array([places[at] for at in order], np.int32)


def _numbers(rings: Sequence[Ring]) -> list[npt.NDArray[np.int64]]:
    """The points of each ring, numbered through all of them."""
    ends = np.cumsum([len(ring) for ring in rings])
    return np.split(np.arange(ends[-1]), ends[:-1])


def _bridges(rings: Sequence[Ring]) -> list[tuple[int, int]]:
    """The shortest pairs of points (by number) that join all rings: a minimum spanning tree over near neighbours, and
    over each hole's nearest point of the outline, so that no ring is left out."""
    points, numbers = np.concatenate(rings), _numbers(rings)
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    distances, nearest = KDTree(points).query(points, k=min(_NEIGHBOURS, len(points)))
    pairs = [(distances.ravel(), np.repeat(np.arange(len(points)), nearest.shape[-1]), nearest.ravel())]
    outline = KDTree(rings[0])
    for hole, ring in zip(numbers[1:], rings[1:], strict=True):
        gap, place = outline.query(ring)
        pairs.append((gap, hole, place))
    gap, here, there = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    apart = np.flatnonzero(owner[here] != owner[there])
    apart = apart[np.argsort(gap[apart], kind="stable")]
    low, high = np.minimum(owner[here], owner[there])[apart], np.maximum(owner[here], owner[there])[apart]
    _, first = np.unique(low * len(rings) + high, return_index=True)
    graph = coo_array((gap[apart[first]] + 1, (low[first], high[first])), shape=(len(rings), len(rings)))  # 0: no edge
    tree = minimum_spanning_tree(graph).tocoo()
    chosen = np.isin(low[first] * len(rings) + high[first], tree.row.astype(np.int64) * len(rings) + tree.col)
    return [(int(here[at]), int(there[at])) for at in apart[first[chosen]]]


def _holes(tree: npt.NDArray[np.int32], outer: int) -> Iterator[int]:
    """tree: (n, 4) next, previous, first child and parent, as OpenCV numbers contours."""
    hole = int(tree[outer][2])
    while hole >= 0:
        yield hole
        hole = int(tree[hole][0])


def _ring(contour: npt.NDArray[Any]) -> Ring:
    return np.asarray(contour, np.int32).reshape(-1, 2)


def _box(outer: Ring) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(pixels(outer))
    return int(left), int(top), int(width), int(height)


def _simpler(exact: tuple[Ring, ...]) -> tuple[Ring, ...]:
    """Rings with fewer points that are good enough for every reader, whatever it does with a pixel that a line cuts."""
    left, top, width, height = cv2.boundingRect(exact[0])
    corner = np.array([left, top], np.int32)
    wanted = _quarters(exact, corner, height, width)[..., 0, 0]
    for tolerance in TOLERANCES:
        rings = tuple(_ring(cv2.approxPolyDP(ring, tolerance, True)) for ring in exact)
        if all(len(edges(ring)) > 2 for ring in rings):
            found = _quarters(rings, corner, height, width)
            if min(_iou(found.all((2, 3)), wanted), _iou(found.any((2, 3)), wanted)) >= LEAST_IOU:
                return rings
    return exact


def _quarters(rings: Sequence[Ring], corner: Ring, height: int, width: int) -> npt.NDArray[np.bool_]:
    """(height / 2, width / 2, 2, 2) bool: what the rings fill, pixels by their quarters."""
    filled = _filled([ring - corner for ring in rings], height, width)
    return filled.reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2)


def _iou(found: npt.NDArray[np.bool_] | np.bool_, wanted: npt.NDArray[np.bool_]) -> float:
    return float((found & wanted).sum() / (found | wanted).sum())


def _filled(rings: Sequence[Ring], height: int, width: int) -> npt.NDArray[np.bool_]:
    """(height, width) bool: what lies inside an odd number of rings, or on one."""
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, list(rings), 1)
    return canvas.astype(bool)


def _distinct(ring: Ring) -> Ring:
    """Without points that repeat the one before them."""
    kept = (ring != np.roll(ring, 1, axis=0)).any(axis=1)
    return ring[kept] if kept.any() else ring[:1]


def run_lengths(values: npt.NDArray[np.bool_]) -> list[int]:
    """Return the run lengths of a flat array, False and True in turn; the first is 0 if it starts with True."""
    turns = np.flatnonzero(np.diff(values, prepend=False))
    ends = np.append(turns, len(values))
    return [int(length) for length in np.diff(ends, prepend=0)]
