"""What a model is worth to a line, as one number on an absolute scale: no other model changes it.

Without costs the unit is image AUROC, to which the other criteria are converted at the exchange rates of the
experiment's `verdict`:

image AUROC   itself
recall        recall at the false-alarm budget, the same for all models and set on the test OK images, × `recall`
heat map      mean of AU-PRO, 1 - noise around defects and 1 - noise on OK images, × `heat_map`
time          milliseconds per image, × -`ms`
size          10^6 bytes of the saved detector, × -`mb`

With `costs` the unit is the cost of missing every defect:

missed defects   -(1 - recall) at the model's own threshold
false alarms     -false-alarm rate at its own threshold, × what false alarms cost against missed defects
time             milliseconds per image, × -their price

What is unknown counts as its worst value, so it never helps: no heat map counts 0, no threshold flags nothing. Time and
size are known of every finished model; times of a line count for none of its models if any was disturbed.
"""

from __future__ import annotations

import zlib

import numpy as np

from raybench.analysis.comparison import Floats, Utility
from raybench.analysis.rows import FinishedModel
from raybench.config.experiment import Costs, VerdictSettings
from raybench.metrics.intervals import NORMAL_QUANTILE
from raybench.metrics.numbers import Estimate, Quality
from raybench.metrics.ranking import SampledModel

CHANCE = 0.5
"""Image AUROC that a failed model counts with, over several lines."""


def utility(
    model: FinishedModel, sampled: SampledModel, settings: VerdictSettings, costs: Costs | None, timed: bool
) -> Utility:
    """Return the utility of a finished model.

    Args:
        model: The model on its line.
        sampled: Its image metrics in draws.
        settings: Exchange rates.
        costs: Costs in the user's currency, if given.
        timed: Whether times of the line's models were taken on a quiet machine. Otherwise they count for nothing.
    """
    ms = model.measured.speed.p50_ms if timed else 0.0
    if costs is not None:
        return _cost(sampled, costs, ms)
    terms = {
        "image AUROC": sampled.auroc,
        "recall": settings.recall * sampled.recall,
        "heat map": settings.heat_map * _heat_map(model.quality),
        "time": -settings.ms * ms,
        "size": -settings.mb * model.measured.size.disk_mb,
    }
    fixed = terms["heat map"] + terms["time"] + terms["size"]
    noise = settings.heat_map * _heat_noise(model.quality, sampled)
    draws = sampled.auroc_draws + settings.recall * sampled.recall_draws + noise + fixed
    return Utility(sum(terms.values()), draws, terms)


def failed_utility(settings: VerdictSettings, costs: Costs | None, budget: float) -> float:
    """Return the utility of a model that did not finish on a line: that of a detector that tells nothing."""
    return -1.0 if costs else CHANCE + settings.recall * budget


def _cost(sampled: SampledModel, costs: Costs, ms: float) -> Utility:
    defects = costs.defect_rate * costs.missed_defect
    alarms = costs.alarms_per_defect
    recall, rate = sampled.own_recall or 0.0, sampled.own_false_alarm_rate or 0.0
    terms = {"missed defects": recall - 1, "false alarms": -alarms * rate, "time": -costs.ms * ms / defects}
    value = sum(terms.values())
    if sampled.own_recall_draws is None or sampled.own_false_alarm_draws is None:
        return Utility(value, np.full(len(sampled.auroc_draws), value), terms)
    draws = sampled.own_recall_draws - 1 - alarms * sampled.own_false_alarm_draws + terms["time"]
    return Utility(value, draws, terms)


def _heat_map(quality: Quality) -> float:
    """Return the mean of the three parts of what heat maps are worth, from 0 to 1."""
    noises = [noise.value for noise in (quality.noise_around, quality.noise_ok) if noise.value is not None]
    return ((quality.au_pro.value or 0.0) + sum(1 - noise for noise in noises)) / 3


def _heat_noise(quality: Quality, sampled: SampledModel) -> Floats:
    """Draw the error of `_heat_map` from the intervals of its parts."""
    parts = (quality.au_pro, quality.noise_around, quality.noise_ok)
    errors = [_standard_error(part) for part in parts if part.value is not None]
    rng = np.random.default_rng(zlib.crc32(sampled.auroc_draws.tobytes()))
    noise: Floats = rng.standard_normal(len(sampled.auroc_draws)) * float(np.sqrt(np.square(errors).sum()) / 3)
    return noise


def _standard_error(number: Estimate) -> float:
    if number.low is None or number.high is None:
        return 0.0
    return (number.high - number.low) / (2 * NORMAL_QUANTILE)
