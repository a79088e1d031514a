"""Order flagged images for annotation: the most useful first, without showing one defect twenty times.

Images are picked greedily. The next image is the one with the highest gain, usefulness² × novelty. Novelty is the
distance to the nearest image picked so far, capped at 1, the typical distance between two images (see
`metrics.descriptors`). This is farthest-point clustering (Gonzalez 1985) with weights and a cap. Without the cap it
would favour outliers. The square ranks false alarms, which all look different, behind certain defects. Time is
O(images × budget), memory O(images). The order is deterministic; ties are broken by image_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raybench.analysis.flags import Flag
from raybench.metrics.descriptors import Descriptors

GREEDY = 1000  # picks before novelty is frozen: beyond, time would grow with the square of the budget

Floats = npt.NDArray[np.float64]


def rank_flags(flags: Sequence[Flag], descriptors: Descriptors, budget: int) -> list[Flag]:
    """Rank the flags of one line.

    Args:
        flags: Flags of one line, in any order.
        descriptors: Descriptors of their images; an image without one counts as novel.
        budget: Number of images to pick.

    Returns:
        The flags by rank, from 1. The first `budget` are picked by usefulness and diversity; the rest follow by
        usefulness.
    """
    ordered = sorted(flags, key=lambda flag: (-flag.usefulness, -flag.score, flag.image_id))
    useful = np.array([flag.usefulness for flag in ordered], np.float64)
    picked = select_diverse(useful, descriptors.points([flag.image_id for flag in ordered]), budget)
    rest = np.delete(np.arange(len(ordered)), picked)
    order = [*picked, *rest.tolist()]
    return [replace(ordered[index], rank=rank, picked=rank <= len(picked)) for rank, index in enumerate(order, 1)]


def select_diverse(useful: Floats, points: Floats, budget: int) -> list[int]:
    """Pick useful points that are far from each other.

    Args:
        useful: (n,) float64, usefulness above 0.
        points: (n, D) float64, NaN for an unknown point.
        budget: Number of points to pick.

    Returns:
        At most `budget` indices in the order in which they were picked; of equal gains the first index wins.
    """
    weights, novelty, left = np.square(useful), np.ones(len(useful)), np.ones(len(useful), bool)
    picked: list[int] = []
    for _ in range(min(budget, len(useful), GREEDY)):
        best = int(np.argmax(np.where(left, weights * novelty, -1.0)))
        left[best] = False
        picked.append(best)
        novelty = np.minimum(novelty, _distances(points, best))
    by_gain = np.argsort(-weights * novelty, kind="stable")
    rest = by_gain[left[by_gain]]
    return [*picked, *rest[: budget - len(picked)].tolist()]


def _distances(points: Floats, index: int) -> Floats:
    """Return the distance of each point to the one at `index`, (n,) capped at 1; 1 if either is unknown."""
    distances = np.sqrt(np.square(points - points[index]).sum(axis=1))
    return np.where(np.isnan(distances), 1.0, np.minimum(distances, 1.0))
