"""Test whether test OK images still come from the process whose held-back images set a threshold.

A conformal threshold on n held-back images does not have a false-alarm rate of `budget`: its rate is itself random,
Beta(n + 1 - k, k) at the k-th smallest score, and the number of false alarms among m test images is beta-binomial. A
rate above the budget is therefore no evidence against a threshold; an improbable count is. Thresholds that are too high
show in the ranks of the scores (Mann and Whitney 1947), long before they show in a count of alarms.

Where images belong to groups, both statistics are compared with those of random exchanges of whole groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Threshold

PERMUTATIONS = 4000
_CELLS = 4_000_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ThresholdTest:
    """How improbable the test OK scores are if the line has not changed since training."""

    too_many_alarms: float
    """One-sided p-value of the number of false alarms."""
    too_low: float
    """One-sided p-value of scores below those of the held-back images: the threshold is too high."""


def assess_threshold(held_out: ImageScores, images: ImageScores, threshold: Threshold) -> ThresholdTest | None:
    """Test a threshold on the OK images of the test split.

    Args:
        held_out: Scores of the held-back OK images that set the threshold.
        images: Scores of the test split.
        threshold: The threshold.

    Returns:
        The p-values, or None without held-back or test OK images.
    """
    is_ok = images.counted("ok")
    new, old = images.scores[is_ok], held_out.scores
    if threshold.value is None or not len(new) or not len(old):
        return None
    shared = np.isin(images.groups[is_ok], held_out.groups)  # a group on both sides compares with itself
    if shared.all():
        return None
    new = new[~shared]
    names = np.concatenate([held_out.groups, images.groups[is_ok][~shared]])
    if len(np.unique(names)) < len(names):
        return _by_permutation(old, new, np.unique(names, return_inverse=True)[1], threshold)
    from scipy import stats  # takes most of a second to import, and few processes test thresholds

    return ThresholdTest(
        alarms_p_value(int((new > threshold.value).sum()), len(new), threshold),
        float(stats.mannwhitneyu(new, old, alternative="less").pvalue),
    )


def alarms_p_value(alarms: int, images: int, threshold: Threshold) -> float:
    """Return the probability of so many false alarms or more among so many OK images, none of which has a group."""
    from scipy import stats

    above = round(threshold.promised * (threshold.n + 1))
    return float(stats.betabinom.sf(alarms - 1, images, above, threshold.n + 1 - above))


def _by_permutation(old: Floats, new: Floats, groups: npt.NDArray[np.intp], threshold: Threshold) -> ThresholdTest:
    from scipy import stats

    scores = np.concatenate([old, new])
    order = np.argsort(scores, kind="stable")
    sizes = np.bincount(groups)
    held = np.zeros(len(sizes), bool)
    held[groups[: len(old)]] = True
    ranks = stats.rankdata(scores)
    seen_alarms = int((new > (threshold.value or 0.0)).sum())
    seen_rank = ranks[len(old) :].mean()
    rng = np.random.default_rng(0)
    many, low, block = 1, 1, max(1, _CELLS // len(scores))
    for start in range(0, PERMUTATIONS, block):
        rows = min(block, PERMUTATIONS - start)
        chosen = rng.permuted(np.tile(held, (rows, 1)), axis=1)[:, groups]  # (rows, n): held back in this exchange
        shared = (chosen / sizes[groups])[:, order]
        needed = (held.sum() + 1) * (1 - threshold.budget) - 1e-9
        at = (np.cumsum(shared, axis=1) < needed).sum(axis=1)
        last = len(scores) - 1 - np.argmax(chosen[:, order][:, ::-1], axis=1)
        limits = scores[order][np.minimum(at, last)][:, np.newaxis]
        alarms = (~chosen & (scores > limits)).sum(axis=1)
        mean_rank = np.where(chosen, 0.0, ranks).sum(axis=1) / np.maximum((~chosen).sum(axis=1), 1)
        many += int((alarms >= seen_alarms).sum())
        low += int((mean_rank <= seen_rank + 1e-9).sum())
    return ThresholdTest(many / (PERMUTATIONS + 1), low / (PERMUTATIONS + 1))
