"""Mean ranks of models over many lines, with intervals over lines.

Demšar 2006, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7, section 3.2: on each line the
best model has rank 1, and equal models share the mean of their ranks. A model that failed on a line ranks behind all
that finished there; several failed models share the mean of the last ranks. Lines are resampled, so the interval is
valid for lines like these, whereas that of `ranking.mean_ranking` is valid for images of these lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt
from scipy import stats

from raybench.metrics.intervals import RESAMPLES, percentile_interval, resamples
from raybench.metrics.numbers import Estimate

FEWEST_LINES = 5  # for an interval: fewer lines have too few distinct resamples
_SEED = 0

Floats = npt.NDArray[np.float64]


def mean_ranks(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Estimate]:
    """Compute the mean rank of each model over the lines of the largest table.

    Args:
        values: By line and model; higher is better. None if the model failed on the line.

    Returns:
        By model, the mean rank, with the number of lines as `n`. It has no interval with fewer than FEWEST_LINES lines.
        Empty with fewer than two models.
    """
    models, lines = largest_table({line: by_model.keys() for line, by_model in values.items()})
    if len(models) < 2:
        return {}
    known = [[values[line][model] for model in models] for line in lines]
    ranks = average_ranks(np.array([[np.nan if value is None else value for value in row] for row in known]))
    means = ranks.mean(axis=0)
    if len(lines) < FEWEST_LINES:
        return {model: Estimate(float(mean), n=len(lines)) for model, mean in zip(models, means, strict=True)}
    drawn = np.concatenate([weights @ ranks for (weights,) in resamples((len(lines),), RESAMPLES, _SEED)]) / len(lines)
    return {
        model: Estimate(float(means[index]), *percentile_interval(drawn[:, index]), len(lines))
        for index, model in enumerate(models)
    }


def average_ranks(values: Floats) -> Floats:
    """Rank (L, M) values in each row: 1 for the highest, NaNs last. Equal values, and NaNs, share the mean rank."""
    ranks: Floats = stats.rankdata(np.where(np.isnan(values), np.inf, -values), method="average", axis=1)
    return ranks


def largest_table(models_of: Mapping[str, Set[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose models and lines to compare, so that each of these models ran on each of these lines.

    Each line's set of models is a candidate, together with all lines that have the whole set. The candidate with the
    largest table (models × lines) is chosen.

    Args:
        models_of: Models by line.

    Returns:
        Models, sorted, and lines, in the order of `models_of`.
    """

    def lines_with(models: Set[str]) -> tuple[str, ...]:
        return tuple(line for line, available in models_of.items() if models <= available)

    lists = {frozenset(models) for models in models_of.values()}
    best = max(
        lists,
        key=lambda models: (len(models) * len(lines_with(models)), len(models), sorted(models)),
        default=frozenset[str](),
    )
    return tuple(sorted(best)), lines_with(best)
