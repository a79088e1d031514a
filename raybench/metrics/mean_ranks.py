"""Models over many lines: the mean of their ranks on each line, with an interval over lines.

Demšar 2006, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7, section 3.2: on each line the
best model has rank 1, equal ones share the mean of their ranks. A model that failed on a line stands behind all that
finished there; several share the mean of the last ranks. Lines are resampled, so the interval speaks of lines like
these, where that of `ranking.mean_ranking` speaks of images of these lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.metrics.intervals import RESAMPLES, percentile_interval, resamples
from raybench.metrics.numbers import Estimate

FEWEST_LINES = 5  # for an interval: resamples of fewer lines have too few kinds
_SEED = 0

Floats = npt.NDArray[np.float64]


def mean_ranks(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Estimate]:
    """By model, its mean rank over the lines of the largest table; n: those lines. Empty with fewer than two models.

    values: by line and model, higher is better; None where the model failed.
    """
    models, lines = largest_table({line: by_model.keys() for line, by_model in values.items()})
    if len(models) < 2:
        return {}
    known = [[values[line][model] for model in models] for line in lines]
    ranks = average_ranks(np.array([[np.nan if one is None else one for one in row] for row in known]))
    means = ranks.mean(axis=0)
    if len(lines) < FEWEST_LINES:
        return {model: Estimate(float(mean), n=len(lines)) for model, mean in zip(models, means, strict=True)}
    drawn = np.concatenate([weights @ ranks for (weights,) in resamples((len(lines),), RESAMPLES, _SEED)]) / len(lines)
    return {
        model: Estimate(float(means[at]), *percentile_interval(drawn[:, at]), len(lines))
        for at, model in enumerate(models)
    }


def average_ranks(values: Floats) -> Floats:
    """(L, M) float64: the rank of each value in its row, 1 for the highest; equal ones, and NaNs, share theirs."""
    ranks: Floats = stats.rankdata(np.where(np.isnan(values), np.inf, -values), method="average", axis=1)
    return ranks


def largest_table(models_of: Mapping[str, Set[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Models and lines to compare over: each of these models is on each of these lines.

    Of the lists of models that lines have, the one that makes the largest table (models × lines) together with all
    lines that have the whole of it. models_of: by line.
    """

    def lines_with(models: Set[str]) -> tuple[str, ...]:
        return tuple(line for line, here in models_of.items() if models <= here)

    lists = {frozenset(models) for models in models_of.values()}
    best = max(
        lists,
        key=lambda models: (len(models) * len(lines_with(models)), len(models), sorted(models)),
        default=frozenset[str](),
    )
    return tuple(sorted(best)), lines_with(best)
