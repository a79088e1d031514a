"""Order flagged images for annotation: the most useful first, without showing one defect twenty times.

Part of the budget goes to unlabelled images that are picked at random: only these say how often a model is wrong, since
all others are picked because models find them suspicious. They are spread evenly among the others, so that both kinds
are labelled by somebody who stops half-way. Which images they are is decided once and for all, see `metrics.sampling`.

The others are picked greedily. The next image is the one with the highest gain, usefulness² × novelty. Novelty is the
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

from raybench.analysis.flags import Flag, ScoredImage
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.sampling import permanent_numbers

GREEDY = 1000  # picks before novelty is frozen: beyond, time would grow with the square of the budget

Floats = npt.NDArray[np.float64]


def random_checks(images: Sequence[ScoredImage], budget: int, share: float) -> list[str]:
    """Pick unlabelled images of one line at random: those with the smallest permanent numbers.

    Args:
        images: Scored images that may be asked for.
        budget: Number of images to pick in all.
        share: Share of it that goes to random checks.

    Returns:
        Their image_ids, in the order in which they are to be labelled.
    """
    unlabelled = [image.image_id for image in images if image.label == "unknown"]
    order = np.argsort(permanent_numbers(unlabelled), kind="stable")
    return [unlabelled[index] for index in order[: round(share * budget)]]


def rank_flags(
    flags: Sequence[Flag], descriptors: Descriptors, budget: int, at_random: Sequence[str] = ()
) -> list[Flag]:
    """Rank the flags of one line.

    Args:
        flags: Flags of one line, in any order.
        descriptors: Descriptors of their images; an image without one counts as novel.
        budget: Number of images to pick.
        at_random: image_ids of the flags that are picked at random, in their order, at most `budget`.

    Returns:
        The flags by rank, from 1. The first `budget` are picked at random, or by usefulness and diversity; the rest
        follow by usefulness.
    """
    by_id = {flag.image_id: flag for flag in flags}
    chance = [by_id.pop(image_id) for image_id in at_random]
    ordered = sorted(by_id.values(), key=lambda flag: (-flag.usefulness, -flag.score, flag.image_id))
    useful = np.array([flag.usefulness for flag in ordered], np.float64)
    points = descriptors.points([flag.image_id for flag in ordered])
    chosen = select_diverse(useful, points, budget - len(chance))
    rest = np.delete(np.arange(len(ordered)), chosen).tolist()
    picked = _interleaved([ordered[index] for index in chosen], chance)
    queue = [*picked, *(ordered[index] for index in rest)]
    return [replace(flag, rank=rank, picked=rank <= len(picked)) for rank, flag in enumerate(queue, 1)]


def _interleaved(first: Sequence[Flag], second: Sequence[Flag]) -> list[Flag]:
    """Spread two lists evenly over one; each keeps its order."""
    places = [((index + 0.5) / len(part), flag) for part in (first, second) for index, flag in enumerate(part)]
    return [flag for _, flag in sorted(places, key=lambda place: place[0])]


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
