"""Grade heat maps with a word that a quality engineer understands.

Heat maps get a grade for each of three numbers, and the worst grade counts:

                   AU-PRO       noise around defects   noise on OK images
accurate           0.90 or more     0.10 or less           0.40 or less
a little noisy     0.80 or more     0.25 or less           0.70 or less
noisy              0.60 or more     0.50 or less           0.90 or less
unusable           less             more                   more

Without masks only the noise on OK images is known, and the grade says so. `metrics.heatmap_contrast` defines both
noises.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from raybench.metrics.numbers import Estimate, Quality

WORDS = ("accurate", "a little noisy", "noisy", "unusable")
AU_PRO = (0.9, 0.8, 0.6)
NOISE_AROUND = (0.1, 0.25, 0.5)
NOISE_OK = (0.4, 0.7, 0.9)


@dataclass(frozen=True)
class HeatmapGrade:
    """The grade of a model's heat maps on a line."""

    word: str
    """One of WORDS."""
    by_masks: bool
    """Whether masks were available."""
    why: str
    """The number behind the worst grade; empty for accurate maps."""
    worth: float
    """From 0 to 1: mean of AU-PRO, 1 − noise around defects and 1 − noise on OK images, of those that are known."""

    def __str__(self) -> str:
        return self.word if self.by_masks else f"{self.word} (without masks)"


def heatmap_grade(quality: Quality) -> HeatmapGrade | None:
    """Grade the heat maps of a model; None without heat maps, or without the OK and NG images to compare them on."""
    grades = [
        _grade("AU-PRO", quality.au_pro, [-limit for limit in AU_PRO], -1),
        _grade("noise around defects", quality.noise_around, NOISE_AROUND, 1),
        _grade("noise on OK images", quality.noise_ok, NOISE_OK, 1),
    ]
    known = [grade for grade in grades if grade is not None]
    if not known:
        return None
    worst, why = max(known, key=lambda grade: grade[0])
    noises = (quality.noise_around.value, quality.noise_ok.value)
    parts = [quality.au_pro.value, *(1 - noise for noise in noises if noise is not None)]
    worth = statistics.mean(part for part in parts if part is not None)
    return HeatmapGrade(WORDS[worst], quality.au_pro.value is not None, why if worst else "", worth)


def _grade(name: str, number: Estimate, limits: Sequence[float], sign: int) -> tuple[int, str] | None:
    """Return the index into WORDS, and the number in words. limits: ascending, of sign × value."""
    if number.value is None:
        return None
    return sum(sign * number.value > limit for limit in limits), f"{name} {number.value:.2f}"
