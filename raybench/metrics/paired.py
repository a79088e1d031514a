"""The change of a share between two detectors that judged the same images, such as recall then and now."""

from __future__ import annotations

import numpy as np

from raybench.metrics.intervals import (
    Floats,
    Indices,
    bootstrap,
    clopper_pearson,
    percentile_interval,
    share_interval,
)
from raybench.metrics.numbers import Estimate


def share_change(change: Floats, groups: Indices, name: str) -> Estimate:
    """Estimate the mean change over images that are drawn in groups.

    Two intervals are taken together. Resampling whole groups knows how large the change is, but is sure of its sign as
    soon as all images that changed did so in one direction, be it a single one. The sign is tested by Clopper and
    Pearson's interval of the share of images that rose among those that changed, as in McNemar's exact test.

    Args:
        change: (n,) float64: 1 where only the later detector flags the image, -1 where only the earlier one does, 0
            where both agree. Means over seeds lie between.
        groups: (n,) number of each image's group, from 0 without gaps.
        name: Name of the images, for the reason of an undefined change.

    Returns:
        The change with its 95 % interval; `n` is the number of images.
    """
    n = len(change)
    if n == 0:
        return Estimate(None, reason=f"no {name} images in common")
    value, moved = float(change.mean()), change != 0
    if not moved.any():
        most = clopper_pearson(0, len(np.unique(groups)))[1]
        return Estimate(value, -most, most, n)
    low, high = percentile_interval(bootstrap([groups], lambda weights: (weights * change).mean(axis=1)))
    renumbered = np.unique(groups[moved], return_inverse=True)[1].astype(np.int64)
    fewest, most = share_interval(change[moved] > 0, renumbered)
    size = float(np.abs(change).mean())
    return Estimate(value, max(-1.0, min(low, size * (2 * fewest - 1))), min(1.0, max(high, size * (2 * most - 1))), n)
