"""Draw images at random once and for all, so that labels that come back say how often a model is wrong.

Each image has a permanent random number, which only its ID decides (Brewer, Early and Joyce 1972; Ohlsson 1995). An
image of a pool *represents* the pool if somebody has looked at it and at all images of the pool with smaller numbers:
these are a random sample, in whichever order, for whichever reasons and by whichever tool their labels came. Images
beyond the first that nobody has looked at were chosen by somebody, and represent nothing but themselves. The first one
that nobody has looked at ends the sample and is no part of it, which is what makes shares of it unbiased although
others were looked at on purpose (inverse sampling, Haldane 1945): whoever draws random checks takes a fixed number of
those that nobody has chosen, LEAST_SAMPLE at least where a pool is begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

LEAST_SAMPLE = 5
"""Fewer images than these do not represent a pool, and no fewer random checks begin one: whether a sample counts must
not depend on how many images of it somebody chose."""

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def permanent_numbers(image_ids: Iterable[str]) -> Floats:
    """Return a number in [0, 1) for each image, always the same one, (n,) float64."""
    digests = (hashlib.sha256(f"sample {image_id}".encode()).digest() for image_id in image_ids)
    return np.array([int.from_bytes(digest[:6]) / 2**48 for digest in digests], np.float64)


def reach(numbers: Floats, is_seen: Bools) -> float:
    """Return how far the sample of a pool reaches: its images have smaller permanent numbers.

    Args:
        numbers: (n,) float64, permanent numbers of all images of the pool.
        is_seen: (n,) bool, whether somebody has looked at the image.

    Returns:
        1 if every image has been looked at, 0 if the sample is smaller than LEAST_SAMPLE.
    """
    if is_seen.all():
        return 1.0
    end = float(numbers[~is_seen].min())
    return end if (numbers < end).sum() >= LEAST_SAMPLE else 0.0
