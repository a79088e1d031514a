"""What a line's OK images look like, and what tells the kinds of anomaly apart on that line, from a few of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raybench.analysis.anomaly_types.classifier import AnomalyTypeClassifier, learn
from raybench.analysis.anomaly_types.features import LAID_OVER, Measured, ReferenceStatistics, measure
from raybench.analysis.anomaly_types.moves import Spectra, best_move, spectra
from raybench.analysis.anomaly_types.training_samples import TrainingSamples
from raybench.analysis.anomaly_types.views import FINE, Image, View, shrunk, view, working_size

FEWEST = LAID_OVER + 1
COMPARED, LEARNT_FROM = 24, 18  # images; where there are fewer in all, some serve for both
_FARTHEST_PX = 2  # of a pattern: what may still count as in place
_COMMON = 0.9  # quantile


@dataclass(frozen=True)
class ReferenceBank:
    """known: what images are measured against. lessons: what the line's perturbed images measured. judge: has learnt
    from them to tell the kinds apart. size: (H, W) of the working size."""

    known: ReferenceStatistics
    lessons: TrainingSamples
    judge: AnomalyTypeClassifier
    size: tuple[int, int]

    @classmethod
    def of(cls, images: Iterable[Image], lessons: TrainingSamples | None = None) -> ReferenceBank:
        """From OK images, (H, W, 3) uint8 RGB: COMPARED of them are compared with, LEARNT_FROM perturbed, which takes
        most of the time and is left out where `lessons` of these very images are given. Raises ValueError on fewer
        than FEWEST."""
        small: list[Image] = []
        size: tuple[int, int] | None = None
        for image in images:
            size = size or working_size(image.shape[0], image.shape[1])
            small.append(shrunk(image, (FINE * size[0], FINE * size[1])))
        if size is None or len(small) < FEWEST:
            raise ValueError(f"signals need {FEWEST} OK images of a line to compare with, there are {len(small)}")
        small = [small[at] for at in np.random.default_rng(0).permutation(len(small))]
        known = _known([view(image, size) for image in small[:COMPARED]])
        if lessons is None:
            learnt = [(small[at], at if at < COMPARED else None) for at in range(len(small))][-LEARNT_FROM:]
            lessons = learn(known, learnt)
        return cls(known, lessons, AnomalyTypeClassifier.of(lessons), size)

    def measure(self, image: Image) -> Measured:
        """image: (H, W, 3) uint8 RGB, of any size."""
        return measure(view(image, self.size), self.known)


def _known(views: list[View]) -> ReferenceStatistics:
    patterns = spectra(np.stack([one.pattern for one in views]))
    return ReferenceStatistics(
        views=tuple(views),
        patterns=patterns,
        light=np.stack([one.light for one in views]),
        levels=np.stack([one.levels for one in views]),
        directions=np.stack([one.directions for one in views]),
        near_px=_near_px(views, patterns),
    )


def _near_px(views: list[View], patterns: Spectra) -> int:
    """How far aside OK images commonly lie from each other, in pixels of a pattern."""
    everyone = np.arange(len(views))
    moves = [
        best_move(one.pattern, patterns, _FARTHEST_PX, np.delete(everyone, at), posed=False)
        for at, one in enumerate(views)
    ]
    shifts = [float(np.abs(move.shift_in_place_px).max()) for move in moves]
    return min(_FARTHEST_PX, int(np.ceil(np.quantile(shifts, _COMMON))))
