"""Find new, missing and displaced parts, compared with the references that fit best in place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from raybench.analysis.anomaly_types.views import Floats

PART, TEMPLATE = 0.12, 0.15  # of the shorter side: size of a missing part; of a part recognised elsewhere
_RECOGNISED = 0.8  # correlation
_SLACK_PX = 3  # tolerated distance between the same structure in image and reference
_CANDIDATES = 3
_VISIBLE = 5.0  # grey levels per pixel
_GRID, _OF_BLOCK = 16, 0.02
_FLAT = 4.0  # grey levels: a part with less contrast cannot be recognised


@dataclass(frozen=True)
class Spot:
    """A position with the strength of a finding there."""

    value: float
    """Strength; its unit depends on the finding."""
    y: int
    """Working pixels."""
    x: int
    """Working pixels."""


@dataclass(frozen=True)
class NewStructure:
    """Structure that no reference has nearby."""

    spot: Spot
    """Its strongest spot."""
    share: float
    """Share of pixels that are clearly new."""
    height: int
    """Height of the connected region around the spot, in working pixels."""
    width: int
    """Width of that region, in working pixels."""
    blocks: float
    """Share of 16 × 16 blocks that contain clearly new pixels."""
    beyond: Floats
    """(H, W) float32, gradient beyond that of any reference nearby, in grey levels per pixel."""


def _box(image: Floats, side: int) -> Floats:
    return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT).astype(np.float32)


def _odd_px(shape: tuple[int, ...], share: float) -> int:
    return max(5, round(share * min(shape[:2]))) | 1


def missing_part(edges: Floats, references: Floats) -> Spot:
    """Find the part with the least structure compared with every reference.

    Args:
        edges: (H, W) float32, see `View.edges`.
        references: (K, H, W) float32, shifted onto the image.

    Returns:
        The centre of the part, with the log ratio of the references' structure to the image's.
    """
    side = _odd_px(edges.shape, PART)
    expected = np.min([_box(reference, side) for reference in references], axis=0)
    least = 0.5 * float(references.mean()) + 0.05
    return _highest(np.log((expected + least) / (_box(edges, side) + least)), side // 2)


def new_structure(edges: Floats, references: Floats) -> NewStructure:
    """Find structure that no reference has nearby.

    Args:
        edges: (H, W) float32, see `View.edges`.
        references: (K, H, W) float32, shifted onto the image.
    """
    kernel = np.ones((2 * _SLACK_PX + 1, 2 * _SLACK_PX + 1), np.uint8)
    known = np.max([cv2.dilate(reference, kernel) for reference in references], axis=0)
    beyond = np.maximum(edges - known, 0).astype(np.float32)
    spot = _highest(_box(beyond, 5), 2)
    visible = (beyond > _VISIBLE).astype(np.float32)
    blocks = cv2.resize(visible, (_GRID, _GRID), interpolation=cv2.INTER_AREA) > _OF_BLOCK
    apart = cv2.dilate((_box(beyond, 5) > 0.4 * spot.value).astype(np.uint8), np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(apart)
    stat = stats[labels[spot.y, spot.x]]
    height, width = int(stat[cv2.CC_STAT_HEIGHT]), int(stat[cv2.CC_STAT_WIDTH])
    return NewStructure(spot, float(visible.mean()), height, width, float(blocks.mean()), beyond)


def displaced_part(grey: Floats, references: Floats) -> Spot:
    """Find the part of the image that fits better elsewhere in a reference than in its place.

    Args:
        grey: (H, W) float32.
        references: (K, H, W) float32, shifted onto the image.

    Returns:
        The centre of the part, with the difference of the two correlations.
    """
    grey, references = _halved(grey), np.stack([_halved(reference) for reference in references])
    side = _odd_px(grey.shape, TEMPLATE)
    spots = [_displaced(grey, references, y, x, side) for y, x in _odd_places(grey, references, side)]
    best = max(spots, key=lambda spot: spot.value, default=Spot(0.0, 0, 0))
    return Spot(best.value, 2 * best.y, 2 * best.x)


def _halved(image: Floats) -> Floats:
    height, width = image.shape
    size = (max(1, width // 2), max(1, height // 2))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _odd_places(grey: Floats, references: Floats, side: int) -> list[tuple[int, int]]:
    """Return the places where the image differs most from every reference, the most different first."""
    odd = np.min([_box(np.abs(grey - reference).astype(np.float32), side) for reference in references], axis=0)
    half, places = side // 2 + 1, []
    odd[:half], odd[-half:], odd[:, :half], odd[:, -half:] = 0, 0, 0, 0
    for _ in range(_CANDIDATES):
        y, x = (int(index) for index in np.unravel_index(int(odd.argmax()), odd.shape))
        if odd[y, x] <= 0:
            break
        places.append((y, x))
        odd[max(0, y - side) : y + side, max(0, x - side) : x + side] = 0
    return places


def _displaced(grey: Floats, references: Floats, y: int, x: int, side: int) -> Spot:
    half, slack = side // 2, (_SLACK_PX + 1) // 2
    part = grey[y - half : y + half + 1, x - half : x + half + 1]
    if part.std() < _FLAT:
        return Spot(0.0, y, x)
    in_place, elsewhere = -1.0, -1.0
    for reference in references:
        fits = cv2.matchTemplate(reference, part, cv2.TM_CCOEFF_NORMED)
        top, left = y - half, x - half
        near = np.s_[max(0, top - slack) : top + slack + 1, max(0, left - slack) : left + slack + 1]
        in_place = max(in_place, float(fits[near].max()))
        around = np.s_[max(0, top - half) : top + half + 1, max(0, left - half) : left + half + 1]
        fits[around] = -1
        elsewhere = max(elsewhere, float(fits.max()))
    return Spot(elsewhere - max(in_place, 0.0) if elsewhere > _RECOGNISED else 0.0, y, x)


def _highest(values: Floats, margin: int) -> Spot:
    inner = values[margin : values.shape[0] - margin, margin : values.shape[1] - margin]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return Spot(float(inner.max()), int(y) + margin, int(x) + margin)
