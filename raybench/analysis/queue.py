"""The order in which flagged images are looked at: the most useful first, and no defect twenty times.

Greedy, with a budget: the next image is the one with the highest gain, usefulness² × novelty, where novelty is its
distance to the nearest image picked so far, at most 1, as far as two images usually are apart (see
`metrics.descriptors`).
This is farthest-point clustering (Gonzalez 1985) with weights, and with a cap, without which it would run after
outliers. The square keeps false alarms, each of which looks like nothing else, behind what is surely a defect. Time is
of the order of images × budget, memory of images; nothing is drawn by chance, ties go by image id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from raybench.analysis.flags import Flag
from raybench.metrics.descriptors import Descriptors

GREEDY = 1000  # a larger budget takes what then has the highest gain: its time would grow with its square

Floats = npt.NDArray[np.float64]


def rank_flags(flags: Sequence[Flag], traits: Descriptors, budget: int) -> list[Flag]:
    """The flags of one line by rank, from 1. The first `budget` are picked, as different as can be; the rest follow by
    usefulness. An image without traits counts as new."""
    ordered = sorted(flags, key=lambda flag: (-flag.usefulness, -flag.score, flag.image_id))
    useful = np.array([flag.usefulness for flag in ordered], np.float64)
    picked = select_diverse(useful, traits.points([flag.image_id for flag in ordered]), budget)
    rest = np.delete(np.arange(len(ordered)), picked)
    order = [*picked, *rest.tolist()]
    return [replace(ordered[at], rank=rank, picked=rank <= len(picked)) for rank, at in enumerate(order, 1)]


def select_diverse(useful: Floats, points: Floats, budget: int) -> list[int]:
    """At most `budget` positions, in the order they are picked. useful: (n,), above 0. points: (n, D), NaN where not
    known. Of equal ones the first is taken."""
    worth, novelty, left = np.square(useful), np.ones(len(useful)), np.ones(len(useful), bool)
    picked: list[int] = []
    for _ in range(min(budget, len(useful), GREEDY)):
        best = int(np.argmax(np.where(left, worth * novelty, -1.0)))
        left[best] = False
        picked.append(best)
        novelty = np.minimum(novelty, _distances(points, best))
    by_gain = np.argsort(-worth * novelty, kind="stable")
    rest = by_gain[left[by_gain]]
    return [*picked, *rest[: budget - len(picked)].tolist()]


def _distances(points: Floats, at: int) -> Floats:
    """(n,): of each point to the one at `at`, at most 1; 1 where one of the two is not known."""
    away = np.sqrt(np.square(points - points[at]).sum(axis=1))
    return np.where(np.isnan(away), 1.0, np.minimum(away, 1.0))
