"""Resample several models together: on the same images, so that their differences are known better than their values.

An image that is hard is hard for every model. Each draw gives each model an image AUROC, its recall at a common
false-alarm rate and, with its held-back images resampled as well, its recall and false-alarm rate at its own threshold.

Draws do not depend on the order or the names of models, nor on the other models: a model's own noise is seeded with its
scores. Two models with the same scores have the same draws.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.metrics.image import ImageScores, Ranked, missing
from raybench.metrics.intervals import NORMAL_QUANTILE, RESAMPLES, Indices, resamples, spread
from raybench.metrics.numbers import Estimate
from raybench.metrics.separation import auroc_variance, confidence_draws, share_variance
from raybench.metrics.threshold import conformal_quantiles

SEED_SD = 0.015
"""Standard deviation of image AUROC between trainings that is assumed at an AUROC of 0.5; it falls with
sqrt(AUROC (1 - AUROC)) towards 0 and 1."""
OPTIMISED_SEED_SD = 0.033
"""The same of a model that takes optimiser steps from a random start: 0.02 at an AUROC of 0.9."""
SEED_DEGREES = 3
"""Seeds that the assumption is worth. The seeds of a model that were run are counted beside them."""

_METRICS = ("auroc", "recall", "own_recall", "own_false_alarm")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampledModel:
    """A model's metrics on all images, and in B draws."""

    auroc: float
    auroc_draws: Floats
    """(B,) float64."""
    seed_error: float
    """Standard error of `auroc` over trainings."""
    recall: float
    """Recall at the common false-alarm rate, set on the test images themselves."""
    recall_draws: Floats
    """(B,) float64."""
    own_recall: float | None
    """Recall at its own threshold. None without held-back images."""
    own_recall_draws: Floats | None
    """(B,) float64."""
    own_false_alarm_rate: float | None
    """False-alarm rate at its own threshold. None without held-back images."""
    own_false_alarm_draws: Floats | None
    """(B,) float64."""


@dataclass(frozen=True)
class SampledModels:
    """Models resampled together."""

    models: Mapping[str, SampledModel]
    ok: int
    """Number of OK images."""
    ng: int
    """Number of NG images."""
    ok_groups: int
    """Number of groups of OK images, which are resampled."""
    ng_groups: int
    """Number of groups of NG images, which are resampled."""


def sample_models(
    scores: Mapping[str, Sequence[ImageScores]],
    false_alarm_rate: float,
    held_out: Mapping[str, Sequence[ImageScores]] | None = None,
    draws: int = RESAMPLES,
    seed_sds: Mapping[str, float] | None = None,
) -> SampledModels | Estimate:
    """Resample the images that all models scored.

    Args:
        scores: By model, the scores of each of its seeds. A model's value is the mean over its seeds.
        false_alarm_rate: False-alarm rate at which recalls are compared; also the budget of their own thresholds.
        held_out: By model, the scores of held-back OK images of each of its seeds, in the order of `scores`. A model
            that is not in it has no threshold of its own.
        draws: Number of draws.
        seed_sds: By model, the standard deviation between trainings that is assumed; SEED_SD of one that is not in it.

    Returns:
        The draws, or an undefined estimate with the reason why there are none.
    """
    all_scores = [images for seeds in scores.values() for images in seeds]
    ids = functools.reduce(np.intersect1d, (images.image_ids for images in all_scores))
    common = all_scores[0].only(ids)
    sizes = len(common.of_label("ok")), len(common.of_label("ng"))
    if undefined := missing(*sizes):
        return undefined
    groups = common.groups_of("ok"), common.groups_of("ng")
    counts = int(groups[0].max()) + 1, int(groups[1].max()) + 1
    of_held_out = held_out or {}
    seeds = {
        model: [
            _Seed(images.only(ids), false_alarm_rate, of_held_out[model][index] if model in of_held_out else None)
            for index, images in enumerate(of_model)
        ]
        for model, of_model in scores.items()
    }
    drawn = _draw([seed for of_model in seeds.values() for seed in of_model], groups, draws)
    assumed = {model: (seed_sds or {}).get(model, SEED_SD) for model in seeds}
    models = {model: _sampled(of_model, drawn, sizes, counts, assumed[model]) for model, of_model in seeds.items()}
    return SampledModels(models, *sizes, *counts)


def _draw(seeds: Sequence[_Seed], groups: tuple[Indices, Indices], count: int) -> Mapping[_Seed, Floats]:
    """Return the metrics of all seeds in the same `count` resamples, a few resamples at a time."""
    blocks: dict[_Seed, list[Floats]] = {seed: [] for seed in seeds}
    limits, start = _draw_limits(seeds), 0
    for ok, ng in resamples(groups, count):
        for seed in seeds:
            blocks[seed].append(seed.metrics(ok, ng, limits[seed][start : start + len(ok)]))
        start += len(ok)
    return {seed: np.concatenate(parts, axis=1) for seed, parts in blocks.items()}


def _draw_limits(seeds: Sequence[_Seed]) -> Mapping[_Seed, Floats]:
    """Return the thresholds of each seed in RESAMPLES resamples of its held-back images, which most seeds share."""
    alike: dict[bytes, list[_Seed]] = defaultdict(list)
    for seed in seeds:
        alike[seed.held_out_groups.tobytes()].append(seed)
    limits: dict[_Seed, Floats] = {}
    for of_groups in alike.values():
        drawn = resamples([of_groups[0].held_out_groups], RESAMPLES, seed=1)
        blocks = [[seed.limits(held_out) for seed in of_groups] for (held_out,) in drawn]
        limits |= {
            seed: np.concatenate(parts) for seed, parts in zip(of_groups, zip(*blocks, strict=True), strict=True)
        }
    return limits


class _Seed:
    """One trained detector: its test scores, and those of its held-back images."""

    def __init__(self, images: ImageScores, false_alarm_rate: float, held_out: ImageScores | None) -> None:
        self.ok, self.ng = images.of_label("ok"), images.of_label("ng")
        self.ranked = Ranked(self.ok, self.ng)
        self.false_alarm_rate = false_alarm_rate
        self.held_out = held_out.scores if held_out is not None else np.zeros(0)
        self.held_out_groups = held_out.groups_of("ok") if held_out is not None else np.zeros(0, np.int64)
        ranks = np.unique(images.scores, return_inverse=True)[1].astype(np.int64)
        self.noise_seed = zlib.crc32(ranks.tobytes())  # the metrics depend on nothing else

    @functools.cached_property
    def values(self) -> Floats:
        """AUROC, recall and, with held-back images, own recall and own false-alarm rate: (2,) or (4,)."""
        limits = self.limits(np.ones((1, len(self.held_out))))
        return self.metrics(np.ones((1, len(self.ok))), np.ones((1, len(self.ng))), limits)[:, 0]

    def limits(self, held_out: Floats) -> Floats:
        """Return the threshold of each resample of the held-back images, (B,); empty without them."""
        if not len(self.held_out):
            return np.zeros(0)
        return conformal_quantiles(self.held_out, self.held_out_groups, held_out, self.false_alarm_rate)

    def metrics(self, ok: Floats, ng: Floats, limits: Floats) -> Floats:
        """Return the metrics in resamples of all images, and of the held-back ones: (2 or 4, B)."""
        found = self.ranked.auroc_and_recall(ok, ng, self.false_alarm_rate)
        if not len(self.held_out):
            return found
        own = [(of * (scores > limits[:, np.newaxis])).mean(axis=1) for of, scores in ((ng, self.ng), (ok, self.ok))]
        return np.concatenate([found, own])


def _sampled(
    seeds: Sequence[_Seed],
    drawn_by: Mapping[_Seed, Floats],
    sizes: tuple[int, int],
    groups: tuple[int, int],
    seed_sd: float,
) -> SampledModel:
    by_seed = np.stack([seed.values for seed in seeds])  # (S, 2 or 4)
    drawn = np.mean([drawn_by[seed] for seed in seeds], axis=0)
    rng = np.random.default_rng(sorted(seed.noise_seed for seed in seeds))
    found: list[tuple[float, Floats]] = []
    errors: list[float] = []
    for values, resampled, name in zip(by_seed.T.tolist(), drawn, _METRICS, strict=False):
        error, degrees = seed_error(values, seed_sd)
        noise, retrained = rng.standard_normal(len(resampled)), rng.standard_t(degrees, len(resampled))
        variance = auroc_variance if name == "auroc" else share_variance
        of_class = {"auroc": slice(None), "own_false_alarm": slice(0, 1)}.get(name, slice(1, 2))
        images, parts = tuple(sizes)[of_class], tuple(groups)[of_class]
        mean = sum(values) / len(values)
        draws = confidence_draws(mean, resampled, images, parts, noise, variance)
        found.append((mean, np.clip(draws + error * retrained, 0.0, 1.0)))
        errors.append(error)
    (auroc, auroc_draws), (recall, recall_draws), *own = found
    if not own:
        return SampledModel(auroc, auroc_draws, errors[0], recall, recall_draws, None, None, None, None)
    (own_recall, own_recall_draws), (rate, rate_draws) = own
    return SampledModel(
        auroc, auroc_draws, errors[0], recall, recall_draws, own_recall, own_recall_draws, rate, rate_draws
    )


def seed_error(values: Sequence[float], seed_sd: float = SEED_SD) -> tuple[float, int]:
    """Return the standard error of the mean of a share over seeds, and its degrees of freedom.

    The variance between seeds is estimated from their own spread and the assumed one (inverse-gamma prior). Those of
    other models do not count, so that adding a model changes nothing.

    Args:
        values: The share of each seed.
        seed_sd: Standard deviation that is assumed at a share of 0.5.
    """
    count = len(values)
    mean = sum(values) / count
    assumed = seed_sd**2 * max(0.0, 4 * mean * (1 - mean))  # rounding may lift a mean above 1
    found = sum((value - mean) ** 2 for value in values)
    degrees = SEED_DEGREES + count - 1
    return math.sqrt((SEED_DEGREES * assumed + found) / degrees / count), degrees


def paired_difference(first: Sequence[ImageScores], second: Sequence[ImageScores], draws: int = RESAMPLES) -> Estimate:
    """Return the image AUROC of `first` minus that of `second` on their common images, resampled together.

    The difference is that of these trained detectors: what another training would give does not count. The interval is
    symmetric. Confidence distributions of AUROCs near 1 reach far down, one further than the other by chance, so
    percentiles of their difference lie beside it.

    Args:
        first: Scores of one seed, or of several, whose AUROCs are averaged.
        second: Scores of one seed, or of several.
        draws: Number of draws.
    """
    ids = functools.reduce(np.intersect1d, (images.image_ids for images in (*first, *second)))
    common = first[0].only(ids)
    sizes = len(common.of_label("ok")), len(common.of_label("ng"))
    if undefined := missing(*sizes):
        return undefined
    groups = common.groups_of("ok"), common.groups_of("ng")
    counts = int(groups[0].max()) + 1, int(groups[1].max()) + 1
    models = [[_Seed(images.only(ids), 0.5, None) for images in each] for each in (first, second)]
    drawn = _draw([seed for seeds in models for seed in seeds], groups, draws)
    values, samples = [], []
    for seeds in models:
        values.append(float(np.mean([seed.values[0] for seed in seeds])))
        noise_seeds = sorted(seed.noise_seed for seed in seeds)
        noise = np.random.default_rng(noise_seeds if len(seeds) > 1 else noise_seeds[0]).standard_normal(draws)
        resampled = np.mean([drawn[seed][0] for seed in seeds], axis=0)
        samples.append(confidence_draws(values[-1], resampled, sizes, counts, noise))
    value, reach = values[0] - values[1], NORMAL_QUANTILE * spread(samples[0] - samples[1])
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach), sum(sizes))
