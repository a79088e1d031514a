"""What is new, what is missing and what lies elsewhere, part by part, against the references that fit best in place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from raybench.analysis.anomaly_types.views import Floats

PART, TEMPLATE = 0.12, 0.15  # of the shorter side: what may be missing; what is recognised elsewhere
_RECOGNISED = 0.8  # correlation
_SLACK_PX = 3  # how far structure may lie from where a reference has it
_CANDIDATES = 3
_VISIBLE = 5.0  # grey levels per pixel
_GRID, _OF_BLOCK = 16, 0.02
_FLAT = 4.0  # grey levels: a part with less contrast has nothing to be recognised by


@dataclass(frozen=True)
class Spot:
    """What is found where. value: how much; its unit depends on what. y, x: working pixels."""

    value: float
    y: int
    x: int


@dataclass(frozen=True)
class NewStructure:
    """Where something new is: at its strongest spot, with the height and width of what hangs together there, in working
    pixels. share: of all pixels, those that are clearly new. blocks: of 16 x 16 blocks, those that have some of them.
    beyond: (H, W) float32, grey levels per pixel beyond what any reference has nearby."""

    spot: Spot
    share: float
    height: int
    width: int
    blocks: float
    beyond: Floats


def _box(image: Floats, side: int) -> Floats:
    return cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT).astype(np.float32)


def _odd_px(shape: tuple[int, ...], share: float) -> int:
    return max(5, round(share * min(shape[:2]))) | 1


def missing_part(edges: Floats, references: Floats) -> Spot:
    """Log of how much less structure a part has than in any reference. edges: (H, W), references: (K, H, W)."""
    side = _odd_px(edges.shape, PART)
    expected = np.min([_box(reference, side) for reference in references], axis=0)
    least = 0.5 * float(references.mean()) + 0.05
    return _highest(np.log((expected + least) / (_box(edges, side) + least)), side // 2)


def new_structure(edges: Floats, references: Floats) -> NewStructure:
    """Gradient magnitude beyond what any reference has nearby, in grey levels per pixel, and its region."""
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
    """How much better a part of the image fits elsewhere in a reference than in its place: difference of correlations.

    grey: (H, W), references: (K, H, W) float32, laid over the image.
    """
    grey, references = _halved(grey), np.stack([_halved(reference) for reference in references])
    side = _odd_px(grey.shape, TEMPLATE)
    found = [_displaced(grey, references, y, x, side) for y, x in _odd_places(grey, references, side)]
    best = max(found, key=lambda spot: spot.value, default=Spot(0.0, 0, 0))
    return Spot(best.value, 2 * best.y, 2 * best.x)


def _halved(image: Floats) -> Floats:
    height, width = image.shape
    size = (max(1, width // 2), max(1, height // 2))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _odd_places(grey: Floats, references: Floats, side: int) -> list[tuple[int, int]]:
    """Where the image is least like any reference, weighed by its contrast there."""
    odd = np.min([_box(np.abs(grey - reference).astype(np.float32), side) for reference in references], axis=0)
    half, places = side // 2 + 1, []
    odd[:half], odd[-half:], odd[:, :half], odd[:, -half:] = 0, 0, 0, 0
    for _ in range(_CANDIDATES):
        y, x = (int(at) for at in np.unravel_index(int(odd.argmax()), odd.shape))
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
    here, elsewhere = -1.0, -1.0
    for reference in references:
        fits = cv2.matchTemplate(reference, part, cv2.TM_CCOEFF_NORMED)
        top, left = y - half, x - half
        near = np.s_[max(0, top - slack) : top + slack + 1, max(0, left - slack) : left + slack + 1]
        here = max(here, float(fits[near].max()))
        around = np.s_[max(0, top - half) : top + half + 1, max(0, left - half) : left + half + 1]
        fits[around] = -1
        elsewhere = max(elsewhere, float(fits.max()))
    return Spot(elsewhere - max(here, 0.0) if elsewhere > _RECOGNISED else 0.0, y, x)


def _highest(values: Floats, margin: int) -> Spot:
    inner = values[margin : values.shape[0] - margin, margin : values.shape[1] - margin]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return Spot(float(inner.max()), int(y) + margin, int(x) + margin)
