"""Do two splits of a line look as if they came from one camera at one time? Property by property.

Two-sample Kolmogorov–Smirnov tests, Holm's correction over all of a line's tests (Holm 1979, *A simple sequentially
rejective multiple test procedure*). The statistic D is the effect too: the largest difference between the shares of
images below any value, 0 to 1. With many images the least difference is significant, so both are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import ks_2samp

MAX_P = 0.01
MIN_EFFECT = 0.3
_MIN_IMAGES = 8
_EXACT = 1000
PROPERTIES = {
    "brightness": "mean brightness",
    "contrast": "contrast",
    "entropy": "bits per pixel",
    "sharpness": "sharpness (log2)",
    "size": "side of a square as large (px)",
    "elongation": "height / width (log2)",
}

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """OK training images against the `images` of another split (of `test` the OK ones). effect: D. p: corrected.
    median, train_median: of the property."""

    split: str
    name: str
    images: int
    train_median: float
    median: float
    effect: float
    p: float

    @property
    def drifted(self) -> bool:
        return self.p <= MAX_P and self.effect >= MIN_EFFECT


def find_drifts(table: pd.DataFrame) -> tuple[Drift, ...]:
    """Every comparison that there are images for, drifted or not. table: as in `Properties`."""
    found = list(_compared(table))
    corrected = holm([one.p for one in found])
    return tuple(
        Drift(one.split, one.name, one.images, one.train_median, one.median, one.effect, p)
        for one, p in zip(found, corrected, strict=True)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p values, in the order given: the k-th smallest of n times n - k + 1, at least the one before it."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, p_values[at] * (len(p_values) - rank)))
        corrected[at] = highest
    return corrected


def _compared(table: pd.DataFrame) -> Iterator[Drift]:
    trained = table[(table["split"] == "train") & (table["label"] == "ok")]
    others = {
        "test": table[(table["split"] == "test") & (table["label"] == "ok")],
        "unlabelled": table[table["split"] == "unlabelled"],
    }
    for split, other in others.items():
        if min(len(trained), len(other)) < _MIN_IMAGES:
            continue
        for column, name in PROPERTIES.items():
            before, after = (part[column].to_numpy(np.float64) for part in (trained, other))
            tested = ks_2samp(before, after, method="exact" if max(len(before), len(after)) <= _EXACT else "asymp")
            medians = float(np.median(before)), float(np.median(after))
            yield Drift(split, name, len(after), *medians, float(tested.statistic), float(tested.pvalue))
