"""Compare models by draws of their utility: how probably each is the best, and what choosing it would cost.

Each draw resamples images, held-back images and seeds, or lines, for all models together. Draws spread around the
measured utilities, so differences of models that were measured on few images are too large: among many models, the one
in front is in front by luck too. Differences are therefore shrunk towards 0 as if the true utilities of the models had
a standard deviation of PRIOR_SD (normal prior), each pair by its own uncertainty. A pair's numbers do not depend on
which other models were run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.metrics.intervals import percentile_interval, spread
from raybench.metrics.numbers import Estimate

PRIOR_SD = 0.1
SURE = 0.95
_ROUNDING = 1e-12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Utility:
    """What a model is worth on a line, see `analysis.utility`."""

    value: float
    """On all images."""
    draws: Floats
    """(B,) float64."""
    terms: Mapping[str, float]
    """Summands of the value, by name."""


@dataclass(frozen=True)
class Standing:
    """A model among the others."""

    best: float
    """Probability that no other model has a higher utility."""
    within_margin: float
    """Probability that no other model has a utility higher by more than the margin."""
    loss: float
    """Expected utility of the best model, whichever it is, minus that of this one."""
    behind: Estimate
    """Utility of the model with the highest measured one minus that of this one, shrunk. `value` is its expectation."""
    places: tuple[int, int]
    """Best and worst rank of the middle 95 % of draws."""

    @property
    def is_best(self) -> bool:
        """Whether it is at most the margin behind any other model, for sure."""
        return self.within_margin >= SURE

    @property
    def is_worse(self) -> bool:
        """Whether it is more than the margin behind another model, for sure."""
        return self.within_margin < 1 - SURE


def compare(utilities: Mapping[str, Utility], margin: float, prior_sd: float = PRIOR_SD) -> dict[str, Standing]:
    """Compare models.

    Args:
        utilities: Utility by model, at least one, drawn together.
        margin: Difference in utility that does not matter.
        prior_sd: Standard deviation of the true utilities of models.

    Returns:
        Standings by model, the lowest expected loss first.
    """
    leader = max(utilities, key=lambda model: (utilities[model].value, float(utilities[model].draws.mean())))
    gaps = np.stack([_shrunk(utilities[leader], utility, prior_sd) for utility in utilities.values()])  # (M, B)
    lost = gaps - gaps.min(axis=0)
    rounded = np.round(gaps, 12)
    losses, means = (np.round(of.mean(axis=1), 12) + 0.0 for of in (lost, gaps))  # equal ones are, and none is -0
    standings = {
        model: Standing(
            best=float((lost[index] <= _ROUNDING).mean()),
            within_margin=float((lost[index] <= margin + _ROUNDING).mean()),
            loss=float(losses[index]),
            behind=Estimate(float(means[index]), *percentile_interval(gaps[index])),
            places=_places(1 + (rounded < rounded[index]).sum(axis=0)),
        )
        for index, model in enumerate(utilities)
    }
    return dict(sorted(standings.items(), key=lambda item: (item[1].loss, -item[1].best, item[0])))


def _shrunk(leader: Utility, other: Utility, prior_sd: float) -> Floats:
    """Return draws of how much further the leader is, after shrinkage.

    They lie around the measured difference, alike on either side: each quantile is the mean of its own distance and
    that of its opposite. The draws themselves do not where one of two confidence distributions reaches further down.
    """
    difference = leader.draws - other.draws
    ordered = np.sort(difference)
    errors = (ordered - ordered[::-1])[np.argsort(np.argsort(difference, kind="stable"))] / 2
    kept = shrinkage(spread(difference) ** 2, prior_sd)
    shrunk: Floats = kept * (leader.value - other.value) + np.sqrt(kept) * errors
    return shrunk


def shrinkage(variance: float, prior_sd: float = PRIOR_SD) -> float:
    """Return the part of a difference of utilities that is kept, given the variance of its measurement."""
    return 2 * prior_sd**2 / (2 * prior_sd**2 + variance)


def _places(ranks: npt.NDArray[np.float64]) -> tuple[int, int]:
    low, high = np.quantile(ranks, [(1 - SURE) / 2, (1 + SURE) / 2], method="nearest")
    return int(low), int(high)
