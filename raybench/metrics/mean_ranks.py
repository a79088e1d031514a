"""Mean ranks of models over many lines, with intervals over lines.

Demšar 2006, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7, section 3.2: on each line the
best model has rank 1, and equal models share the mean of their ranks. A model that failed on a line ranks behind all
that finished there; several failed models share the mean of the last ranks. The interval is valid for lines like these.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.metrics.intervals import LEVEL, student_quantile
from raybench.metrics.numbers import Estimate

FEWEST_LINES = 3  # for an interval
_ASSUMED_LINES = 4

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
    ranks = average_ranks(_table(values, models, lines))
    if len(lines) < FEWEST_LINES:
        return {model: Estimate(float(ranks[:, index].mean()), n=len(lines)) for index, model in enumerate(models)}
    return {
        model: Estimate(float(ranks[:, index].mean()), *_interval(ranks[:, index], len(models)), len(lines))
        for index, model in enumerate(models)
    }


def _table(values: Mapping[str, Mapping[str, float | None]], models: tuple[str, ...], lines: tuple[str, ...]) -> Floats:
    known = [[values[line][model] for model in models] for line in lines]
    return np.array([[np.nan if value is None else value for value in row] for row in known])


def _interval(ranks: Floats, models: int) -> tuple[float, float]:
    """Return Wilson's interval of a mean between 1 and `models`, with Student's quantile.

    The variance of the ranks is estimated together with _ASSUMED_LINES lines of the largest variance that their mean
    allows, so that it does not vanish where a model has the same rank on a few lines. It is at least that of ranks of
    which a few are one place worse than all others: of two models, the largest variance itself.
    """
    lines = len(ranks)
    share = (ranks - 1) / (models - 1)
    mean = float(share.mean())
    inner = (lines * mean + 0.5) / (lines + 1)
    largest = inner * (1 - inner)
    found = (lines - 1) * share.var(ddof=1) + _ASSUMED_LINES * largest
    spread = min(1.0, max(1 / (models - 1), float(found / (lines - 1 + _ASSUMED_LINES) / largest)))
    reach = student_quantile(lines - 1) ** 2 * spread / lines
    centre = (mean + reach / 2) / (1 + reach)
    half = np.sqrt(reach * mean * (1 - mean) + reach**2 / 4) / (1 + reach)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return 1 + float(low) * (models - 1), 1 + float(high) * (models - 1)


@dataclass(frozen=True)
class CriticalDifference:
    """Friedman's test of all models at once, and the difference of mean ranks that Nemenyi's test needs."""

    models: int
    lines: int
    p_value: float
    """Of Friedman's test: that all models are equally good."""
    difference: float
    """Two models whose mean ranks are at least this far apart differ at a level of 5 %."""

    @property
    def sentence(self) -> str:
        """The test for a reviewer."""
        return (
            f"Mean ranks differ over {self.lines} lines with p = {self.p_value:.2g} (Friedman); two of {self.models} "
            f"models differ at a level of 5 % if their mean ranks are {self.difference:.2f} apart (Nemenyi)."
        )


def critical_difference(values: Mapping[str, Mapping[str, float | None]]) -> CriticalDifference | None:
    """Compute Demšar's critical difference over the lines of the largest table.

    Args:
        values: By line and model; higher is better. None if the model failed on the line.

    Returns:
        The difference, or None with fewer than three models or FEWEST_LINES lines.
    """
    models, lines = largest_table({line: by_model.keys() for line, by_model in values.items()})
    count, number = len(models), len(lines)
    if count < 3 or number < FEWEST_LINES:
        return None
    ranks = average_ranks(_table(values, models, lines))
    if (ranks == ranks.mean()).all():
        return None
    from scipy import stats  # takes most of a second to import

    quantile = stats.studentized_range.ppf(LEVEL, count, np.inf) / np.sqrt(2)
    difference = float(quantile * np.sqrt(count * (count + 1) / (6 * number)))
    return CriticalDifference(count, number, float(stats.friedmanchisquare(*ranks.T).pvalue), difference)


def average_ranks(values: Floats) -> Floats:
    """Rank (L, M) values in each row: 1 for the highest, NaNs last. Equal values, and NaNs, share the mean rank."""
    values = np.where(np.isnan(values), -np.inf, values)
    others, own = values[:, np.newaxis], values[..., np.newaxis]
    ranks: Floats = (others > own).sum(axis=2) + ((others == own).sum(axis=2) + 1) / 2
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
