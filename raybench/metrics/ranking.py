"""Models ranked by image AUROC over the same images: how far they lie apart, and which cannot be told apart.

All models are resampled together (stratified bootstrap over images), so what is hard about an image is hard for all of
them, and differences are known better than the numbers themselves.
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
    """models: best first. values: (M,) float64, their image AUROC. samples: (M, B) float64, in the same resamples.
    images: how many the ranking rests on."""

    models: tuple[str, ...]
    values: Floats
    samples: Floats
    images: int

    @property
    def leader(self) -> str:
        return self.models[0]

    @property
    def tied(self) -> tuple[str, ...]:
        """The leader, and those that cannot be told apart from it: the 95 % interval of the difference holds 0."""
        return tuple(model for model in self.models if not self.is_better(self.leader, model))

    def value(self, model: str) -> Estimate:
        at = self.models.index(model)
        return Estimate(float(self.values[at]), *percentile_interval(self.samples[at]), self.images)

    def gap(self, first: str, second: str) -> Estimate:
        """Image AUROC of `first` minus that of `second`."""
        a, b = self.models.index(first), self.models.index(second)
        interval = percentile_interval(self.samples[a] - self.samples[b])
        return Estimate(float(self.values[a] - self.values[b]), *interval, self.images)

    def is_better(self, first: str, second: str) -> bool:
        return first != second and (self.gap(first, second).low or 0.0) > 0.0

    def places(self, model: str) -> tuple[int, int]:
        """The best and the worst place that `model` may have: behind those that are better, ahead of those that are
        worse."""
        better = sum(self.is_better(other, model) for other in self.models)
        worse = sum(self.is_better(model, other) for other in self.models)
        return 1 + better, len(self.models) - worse


def rank(scores: Mapping[str, Sequence[ImageScores]], draws: int = RESAMPLES, name: str = "") -> Ranking | Estimate:
    """The ranking of models by their scores on the images that all of them scored, or why there is none.

    scores: of each seed of each model; a model's value is the mean over its seeds. name: of the line; lines are
    resampled independently of each other.
    """
    everything = [images for seeds in scores.values() for images in seeds]
    ids = functools.reduce(np.intersect1d, (images.image_ids for images in everything))
    labels = everything[0].only(ids).labels
    ok, ng = (int((labels == label).sum()) for label in ("ok", "ng"))
    if why := missing(ok, ng):
        return why
    tables = [[_table(images.only(ids)) for images in seeds] for seeds in scores.values()]

    def statistic(ok: Floats, ng: Floats) -> Floats:
        return np.stack([np.mean([table.auroc(ok, ng) for table in seeds], axis=0) for seeds in tables])

    values = statistic(np.ones((1, ok)), np.ones((1, ng)))[:, 0]
    samples = bootstrap((ok, ng), statistic, zlib.crc32(name.encode()), draws)
    return _sorted(tuple(scores), values, samples, ok + ng)


def _table(images: ImageScores) -> Ranked:
    return Ranked(images.of_label("ok"), images.of_label("ng"))


def mean_ranking(rankings: Sequence[Ranking]) -> Ranking | None:
    """Models over several lines: the mean image AUROC of those ranked on all of them; None when there are none.

    The lines are taken as they are: intervals say how sure it is for these lines, not for others.
    """
    models = [model for model in rankings[0].models if all(model in one.models for one in rankings)] if rankings else []
    if not models:
        return None
    rows = [[one.models.index(model) for model in models] for one in rankings]
    values = np.mean([one.values[at] for one, at in zip(rankings, rows, strict=True)], axis=0)
    samples = np.mean([one.samples[at] for one, at in zip(rankings, rows, strict=True)], axis=0)
    return _sorted(tuple(models), values, samples, sum(one.images for one in rankings))


def paired_difference(first: ImageScores, second: ImageScores, draws: int = RESAMPLES) -> Estimate:
    """Image AUROC of `first` minus that of `second` on their common images, resampled together."""
    found = rank({"first": [first], "second": [second]}, draws)
    return found.gap("first", "second") if isinstance(found, Ranking) else found


def _sorted(models: tuple[str, ...], values: Floats, samples: Floats, images: int) -> Ranking:
    order = sorted(range(len(models)), key=lambda at: (-values[at], models[at]))
    return Ranking(tuple(models[at] for at in order), values[order], samples[order], images)
