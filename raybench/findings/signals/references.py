"""What a line's OK images look like and how far they differ from each other, from a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from raybench.findings.signals.measure import LAID_OVER, WITNESSES, Known, Measured, measure
from raybench.findings.signals.moves import Spectra, spectra
from raybench.findings.signals.views import Image, View, view, working_size

FEWEST = LAID_OVER + 1
_FARTHEST_PX = 2  # of a pattern: what may still count as in place
_COMMON = 0.9  # quantile
_ALIKE = 0.5  # correlation: below, the line's images have no layout in common


@dataclass(frozen=True)
class References:
    """known: what images are measured against. limits: by witness, what OK images of the line do not exceed as a rule;
    infinite where they are too unlike each other to tell. size: (H, W) of the working size."""

    known: Known
    limits: Mapping[str, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, images: Iterable[Image]) -> References:
        """From OK images, (H, W, 3) uint8 RGB. Raises ValueError on fewer than FEWEST."""
        views: list[View] = []
        size = None
        for image in images:
            size = size or working_size(image.shape[0], image.shape[1])
            views.append(view(image, size))
        if size is None or len(views) < FEWEST:
            raise ValueError(f"signals need {FEWEST} OK images of a line to compare with, there are {len(views)}")
        known = _known(views, _FARTHEST_PX)
        shifts = [np.abs(one.move.shift_in_place_px).max() for one in _each_by_the_others(known)]
        known = _known(views, min(_FARTHEST_PX, int(np.ceil(np.quantile(shifts, _COMMON)))))
        return cls(known, _limits(_each_by_the_others(known)), size)

    def measure(self, image: Image) -> Measured:
        """image: (H, W, 3) uint8 RGB, of any size."""
        return measure(view(image, self.size), self.known)


def _known(views: list[View], near_px: int) -> Known:
    patterns: Spectra = spectra(np.stack([one.pattern for one in views]))
    return Known(
        views=tuple(views),
        patterns=patterns,
        light=np.stack([one.light for one in views]),
        tint=np.stack([one.tint for one in views]),
        tones=np.stack([one.tones for one in views]),
        directions=np.stack([one.directions for one in views]),
        near_px=near_px,
    )


def _each_by_the_others(known: Known) -> list[Measured]:
    return [measure(one, known, without=at) for at, one in enumerate(known.views)]


def _limits(found: list[Measured]) -> dict[str, float]:
    alike = float(np.median([one.move.still for one in found])) >= _ALIKE
    limits = {}
    for name, witness in WITNESSES.items():
        common = witness.head * float(np.quantile([one.values[name] for one in found], _COMMON))
        usable = common <= witness.vague and (alike or not witness.needs_layout)
        limits[name] = max(witness.least, common) if usable else np.inf
    return limits
