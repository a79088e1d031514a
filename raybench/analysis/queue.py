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

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raybench.analysis.flags import Flag, ScoredImage
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.sampling import LEAST_SAMPLE, permanent_numbers

GREEDY = 1000  # picks before novelty is frozen: beyond, time would grow with the square of the budget

Floats = npt.NDArray[np.float64]


def rank_flags(flags: Sequence[Flag], descriptors: Descriptors, budget: int, checks: Sequence[Flag] = ()) -> list[Flag]:
    """Rank the flags of one line.

    Args:
        flags: Flags of one line, in any order.
        descriptors: Descriptors of their images; an image without one counts as novel.
        budget: Number of images to pick.
        checks: Flags of random checks in their order, at most `budget`. They stand for those of the same images.

    Returns:
        The flags by rank, from 1. The first `budget` are picked at random, or by usefulness and diversity; the rest
        follow by usefulness.
    """
    at_random = {flag.image_id for flag in checks}
    useful_flags = (flag for flag in flags if flag.image_id not in at_random)
    ordered = sorted(useful_flags, key=lambda flag: (-flag.usefulness, -flag.score, flag.image_id))
    useful = np.array([flag.usefulness for flag in ordered], np.float64)
    points = descriptors.points([flag.image_id for flag in ordered])
    chosen = select_diverse(useful, points, budget - len(checks))
    rest = np.delete(np.arange(len(ordered)), chosen).tolist()
    picked = _interleaved([ordered[index] for index in chosen], checks)
    queue = [*picked, *(ordered[index] for index in rest)]
    return [replace(flag, rank=rank, picked=rank <= len(picked)) for rank, flag in enumerate(queue, 1)]


def random_checks(images: Iterable[ScoredImage], begun: Container[str], count: int) -> list[ScoredImage]:
    """Pick unlabelled images of one line at random: those with the smallest permanent numbers.

    A pool is begun with LEAST_SAMPLE of them at once, so that whether its sample counts does not depend on how many
    images of it are chosen.

    Args:
        images: Images that may be picked; the labelled ones are not.
        begun: Names of the pools of which the sample counts already.
        count: Number of images to pick.

    Returns:
        The images in the order in which they are to be labelled.
    """
    unlabelled = [image for image in images if image.label == "unknown"]
    numbers = permanent_numbers(image.image_id for image in unlabelled)
    by_pool: dict[str, list[ScoredImage]] = {}
    for index in np.argsort(numbers, kind="stable").tolist():
        by_pool.setdefault(unlabelled[index].pool, []).append(unlabelled[index])
    picked, next_ones = list[ScoredImage](), list[ScoredImage]()
    for pool, of_pool in sorted(by_pool.items(), key=lambda item: (len(item[0]), item[0])):
        if pool not in begun:
            if count - len(picked) < LEAST_SAMPLE:
                continue
            picked += of_pool[:LEAST_SAMPLE]
            next_ones += of_pool[LEAST_SAMPLE:]
        else:
            next_ones += of_pool
    order = np.argsort(permanent_numbers(image.image_id for image in next_ones), kind="stable").tolist()
    return [*picked, *(next_ones[index] for index in order)][:count]


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
