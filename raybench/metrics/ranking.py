"""Rank models by image AUROC over the same images, and find those whose difference is not significant.

All models are resampled together (stratified bootstrap over images). An image that is hard is hard for all models, so
their differences are known more precisely than their values.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.metrics.image import ImageScores, Ranked, missing
from raybench.metrics.intervals import RESAMPLES, bootstrap, percentile_interval
from raybench.metrics.numbers import Estimate

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Models in order of image AUROC, with their bootstrap resamples."""

    models: tuple[str, ...]
    """The best first."""
    values: Floats
    """(M,) float64: image AUROC."""
    samples: Floats
    """(M, B) float64: image AUROC in B resamples, which are the same for all models."""
    images: int
    """Number of images that the ranking is based on."""

    @property
    def leader(self) -> str:
        """The model with the highest image AUROC."""
        return self.models[0]

    @property
    def tied(self) -> tuple[str, ...]:
        """The leader and all models that are not significantly worse: the 95 % interval of the difference holds 0."""
        return tuple(model for model in self.models if not self.is_better(self.leader, model))

    def value(self, model: str) -> Estimate:
        """Return the image AUROC of a model."""
        index = self.models.index(model)
        return Estimate(float(self.values[index]), *percentile_interval(self.samples[index]), self.images)

    def gap(self, first: str, second: str) -> Estimate:
        """Return the image AUROC of `first` minus that of `second`."""
        a, b = self.models.index(first), self.models.index(second)
        interval = percentile_interval(self.samples[a] - self.samples[b])
        return Estimate(float(self.values[a] - self.values[b]), *interval, self.images)

    def is_better(self, first: str, second: str) -> bool:
        """Tell whether `first` is significantly better than `second`."""
        return first != second and (self.gap(first, second).low or 0.0) > 0.0

    def places(self, model: str) -> tuple[int, int]:
        """Return the best and the worst rank of `model`: behind all that are better, ahead of all that are worse."""
        better = sum(self.is_better(other, model) for other in self.models)
        worse = sum(self.is_better(model, other) for other in self.models)
        return 1 + better, len(self.models) - worse


def rank(scores: Mapping[str, Sequence[ImageScores]], draws: int = RESAMPLES, name: str = "") -> Ranking | Estimate:
    """Rank models by their scores on the images that all of them scored.

    Args:
        scores: By model, the scores of each of its seeds. A model's value is the mean over its seeds.
        draws: Number of bootstrap resamples.
        name: Name of the line. Lines are resampled independently of each other.

    Returns:
        The ranking, or an undefined estimate with the reason why there is none.
    """
    all_scores = [images for seeds in scores.values() for images in seeds]
    ids = functools.reduce(np.intersect1d, (images.image_ids for images in all_scores))
    labels = all_scores[0].only(ids).labels
    ok, ng = (int((labels == label).sum()) for label in ("ok", "ng"))
    if undefined := missing(ok, ng):
        return undefined
    tables = [[_table(images.only(ids)) for images in seeds] for seeds in scores.values()]

    def statistic(ok: Floats, ng: Floats) -> Floats:
        return np.stack([np.mean([table.auroc(ok, ng) for table in seeds], axis=0) for seeds in tables])

    values = statistic(np.ones((1, ok)), np.ones((1, ng)))[:, 0]
    samples = bootstrap((ok, ng), statistic, zlib.crc32(name.encode()), draws)
    return _sorted(tuple(scores), values, samples, ok + ng)


def _table(images: ImageScores) -> Ranked:
    return Ranked(images.of_label("ok"), images.of_label("ng"))


def mean_ranking(rankings: Sequence[Ranking]) -> Ranking | None:
    """Rank models by their mean image AUROC over several lines; None if no model is ranked on all of them.

    Lines are not resampled: the intervals are valid for these lines, not for others.
    """
    if not rankings:
        return None
    models = [model for model in rankings[0].models if all(model in ranking.models for ranking in rankings)]
    if not models:
        return None
    rows = [[ranking.models.index(model) for model in models] for ranking in rankings]
    values = np.mean([ranking.values[row] for ranking, row in zip(rankings, rows, strict=True)], axis=0)
    samples = np.mean([ranking.samples[row] for ranking, row in zip(rankings, rows, strict=True)], axis=0)
    return _sorted(tuple(models), values, samples, sum(ranking.images for ranking in rankings))


def paired_difference(first: ImageScores, second: ImageScores, draws: int = RESAMPLES) -> Estimate:
    """Return the image AUROC of `first` minus that of `second` on their common images, resampled together."""
    ranking = rank({"first": [first], "second": [second]}, draws)
    return ranking.gap("first", "second") if isinstance(ranking, Ranking) else ranking


def _sorted(models: tuple[str, ...], values: Floats, samples: Floats, images: int) -> Ranking:
    order = sorted(range(len(models)), key=lambda index: (-values[index], models[index]))
    return Ranking(tuple(models[index] for index in order), values[order], samples[order], images)
