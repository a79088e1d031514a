"""Test whether the splits of a line differ, property by property, as with another camera or at another time.

Each property gets a two-sample Kolmogorov–Smirnov test, with Holm's correction over all tests of a line (Holm 1979, *A
simple sequentially rejective multiple test procedure*). The statistic D is also the effect size: the largest difference
between the shares of images below any value, 0 to 1. With many images the slightest difference is significant, so drift
needs a low p value and a large effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

MAX_P = 0.01
MIN_EFFECT = 0.3
_MIN_IMAGES = 8  # of each split
_EXACT = 1000  # images of a split up to which the p value is exact, not asymptotic
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
    """One property of the OK training images compared with that of another split, drifted or not."""

    split: str
    """The other split: `test`, of which OK images are compared, or `unlabelled`."""
    name: str
    """The property, one of the values of `PROPERTIES`."""
    images: int
    """Images compared of the other split."""
    train_median: float
    """Median of the property over the OK training images."""
    median: float
    """Median of the property over the other split."""
    effect: float
    """Kolmogorov–Smirnov statistic D, 0 to 1."""
    p: float
    """p value after Holm's correction."""

    @property
    def drifted(self) -> bool:
        return self.p <= MAX_P and self.effect >= MIN_EFFECT


def find_drifts(table: pd.DataFrame) -> tuple[Drift, ...]:
    """Compare the splits of a line by all properties, except splits of too few images.

    Args:
        table: As in `Properties`.
    """
    drifts = list(_compare(table))
    corrected = holm([drift.p for drift in drifts])
    return tuple(replace(drift, p=p) for drift, p in zip(drifts, corrected, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests (Holm 1979).

    The k-th smallest of n p values is multiplied by n - k + 1, and is not less than the one before it.

    Returns:
        Corrected p values, at most 1, in the order of `p_values`.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        corrected[index] = highest
    return corrected


def _compare(table: pd.DataFrame) -> Iterator[Drift]:
    """Yield comparisons with uncorrected p values."""
    from scipy.stats import ks_2samp  # takes most of a second to import; a stored inspection needs none of it

    train = table[(table["split"] == "train") & (table["label"] == "ok")]
    others = {
        "test": table[(table["split"] == "test") & (table["label"] == "ok")],
        "unlabelled": table[table["split"] == "unlabelled"],
    }
    for split, other in others.items():
        if min(len(train), len(other)) < _MIN_IMAGES:
            continue
        for column, name in PROPERTIES.items():
            before, after = (part[column].to_numpy(np.float64) for part in (train, other))
            test = ks_2samp(before, after, method="exact" if max(len(before), len(after)) <= _EXACT else "asymp")
            medians = float(np.median(before)), float(np.median(after))
            yield Drift(split, name, len(after), *medians, float(test.statistic), float(test.pvalue))
