"""Image-level quality: how well scores tell NG from OK images, and what the OK-only threshold does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import curves, npz
from raybench.metrics.intervals import LEVEL, RESAMPLES, bootstrap, clopper_pearson, percentile_interval
from raybench.metrics.numbers import Estimate, Threshold

_VERSION = 1
_ROUNDING = 1e-9  # sums of shares reach 1 only nearly
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores by image, sorted by id, each image once. image_ids, labels ("ok", "ng", "unknown"): (n,) str.
    scores: (n,) float64, raw."""

    image_ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    scores: Floats

    @classmethod
    def empty(cls) -> ImageScores:
        return cls.of((), (), ())

    @classmethod
    def of(cls, image_ids: Sequence[str], labels: Sequence[str], scores: Sequence[float]) -> ImageScores:
        """Raises IntegrityError when an id stands there twice."""
        ids = np.array(image_ids, dtype=np.str_)
        order = np.argsort(ids, kind="stable")
        found = cls(ids[order], np.array(labels, np.str_)[order], np.array(scores, np.float64)[order])
        if (found.image_ids[1:] == found.image_ids[:-1]).any():
            raise IntegrityError("an image was scored twice")
        return found

    def merge(self, other: ImageScores) -> ImageScores:
        """All images of both. Raises IntegrityError when one has two scores or two labels."""
        ids = np.concatenate([self.image_ids, other.image_ids])
        kept, first = np.unique(ids, return_index=True)
        labels = np.concatenate([self.labels, other.labels])
        scores = np.concatenate([self.scores, other.scores])
        where = np.searchsorted(kept, ids)
        if (scores[first][where] != scores).any() or (labels[first][where] != labels).any():
            raise IntegrityError("one image has two different scores or labels")
        return ImageScores(kept, labels[first], scores[first])

    def of_label(self, label: str) -> Floats:
        """(m,) float64: the scores of images with this label."""
        found: Floats = self.scores[self.labels == label]
        return found

    def only(self, image_ids: npt.NDArray[np.str_]) -> ImageScores:
        """Those of these images; all of them must be there."""
        at = np.searchsorted(self.image_ids, image_ids)
        return ImageScores(self.image_ids[at], self.labels[at], self.scores[at])

    def to_bytes(self) -> bytes:
        arrays = {"image_ids": self.image_ids, "labels": self.labels, "scores": self.scores}
        return npz.to_bytes("image scores", _VERSION, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageScores:
        """Raises IntegrityError."""
        return cls(**npz.from_bytes("image scores", _VERSION, data))


@dataclass(frozen=True)
class ImageQuality:
    image_auroc: Estimate
    image_ap: Estimate
    image_f1_max: Estimate
    recall: Estimate
    false_alarm_rate: Estimate


def image_quality(images: ImageScores, threshold: Threshold, draws: int = RESAMPLES, seed: int = 0) -> ImageQuality:
    """Quality on the images labelled ok and ng.

    AUROC, AP and the highest F1 have percentile intervals of a stratified bootstrap over images; recall (share of NG
    images above the threshold) and false-alarm rate (of OK images) have Clopper-Pearson intervals.
    """
    ok, ng = images.of_label("ok"), images.of_label("ng")
    auroc, ap, f1 = _ranking(ok, ng, draws, seed)
    return ImageQuality(auroc, ap, f1, _share(ng, threshold, "NG"), _share(ok, threshold, "OK"))


class Ranked:
    """Scores of OK and NG images in falling order, equal ones in one bucket."""

    def __init__(self, ok: Floats, ng: Floats) -> None:
        scores = np.concatenate([ok, ng])
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
        self._ok, self._ng = len(ok), len(ng)

    def _buckets(self, ok: Floats, ng: Floats) -> tuple[Floats, Floats]:
        """Weights (B, n_ok) and (B, n_ng) to counts per bucket (B, K), normal and anomalous."""
        zeros_ok, zeros_ng = np.zeros_like(ok), np.zeros_like(ng)
        both = [np.concatenate(parts, 1)[:, self._order] for parts in ((ok, zeros_ng), (zeros_ok, ng))]
        normal, anomalous = (np.add.reduceat(part, self._starts, axis=1) for part in both)
        return normal, anomalous

    def auroc(self, ok: Floats, ng: Floats) -> Floats:
        return curves.auroc(*self._buckets(ok, ng))

    def all(self, ok: Floats, ng: Floats) -> Floats:
        """(3, B): AUROC, AP and the highest F1."""
        buckets = self._buckets(ok, ng)
        return np.stack([curves.auroc(*buckets), curves.average_precision(*buckets), curves.f1_max(*buckets)])


def _ranking(ok: Floats, ng: Floats, draws: int, seed: int) -> list[Estimate]:
    """AUROC, AP and the highest F1."""
    if why := missing(len(ok), len(ng)):
        return [why] * 3
    ranked, sizes = Ranked(ok, ng), (len(ok), len(ng))
    values = ranked.all(np.ones((1, len(ok))), np.ones((1, len(ng))))[:, 0].tolist()
    samples = bootstrap(sizes, ranked.all, seed, draws)
    return [
        Estimate(value, *_interval(value, sample, min(sizes)), sum(sizes))
        for value, sample in zip(values, samples, strict=True)
    ]


def _interval(value: float, samples: Floats, n: int) -> tuple[float, float]:
    """The percentile interval; at a perfect 1 every resample is perfect too and says nothing, so there the lower
    end is that of n hits of n, n being the smaller class."""
    low, high = percentile_interval(samples)
    return (((1 - LEVEL) / 2) ** (1 / n), 1.0) if value > 1 - _ROUNDING else (low, high)


def _share(scores: Floats, threshold: Threshold, name: str) -> Estimate:
    if threshold.value is None:
        return Estimate(None, n=len(scores), reason=f"no threshold: {threshold.note}")
    if len(scores) == 0:
        return Estimate(None, reason=f"no {name} images in the test split")
    hits = int((scores > threshold.value).sum())
    return Estimate(hits / len(scores), *clopper_pearson(hits, len(scores)), len(scores))


def missing(ok: int, ng: int) -> Estimate | None:
    """Why nothing can be ranked, where one class has no images."""
    if ok and ng:
        return None
    return Estimate(None, n=ok + ng, reason=f"no {'NG' if ok else 'OK'} images in the test split")
