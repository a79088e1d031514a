"""Image metrics: how well scores separate NG from OK images, and recall and false alarms at the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import curves, npz
from raybench.metrics.intervals import LEVEL, RESAMPLES, bootstrap, clopper_pearson, percentile_interval
from raybench.metrics.numbers import Estimate, Threshold

_VERSION = 2  # since version 2, images have groups
_ROUNDING = 1e-9  # sums of shares may miss 1 by rounding
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of images, sorted by id, each image once."""

    image_ids: npt.NDArray[np.str_]
    """(n,) str."""
    labels: npt.NDArray[np.str_]
    """(n,) str: "ok", "ng" or "unknown"."""
    scores: Floats
    """(n,) float64, raw."""
    groups: npt.NDArray[np.str_]
    """(n,) str: the group of each image, its image id if it belongs to none."""

    @classmethod
    def empty(cls) -> ImageScores:
        """Scores of no images."""
        return cls.of((), (), ())

    @classmethod
    def of(
        cls,
        image_ids: Sequence[str],
        labels: Sequence[str],
        scores: Sequence[float],
        groups: Sequence[str] | None = None,
    ) -> ImageScores:
        """Sort scores by image id. Raises IntegrityError when an id is duplicated.

        Args:
            image_ids: Ids of the images.
            labels: Their labels.
            scores: Their raw scores.
            groups: Their groups, the image id of an image that belongs to none. None if no image belongs to a group.
        """
        ids = np.array(image_ids, dtype=np.str_)
        order = np.argsort(ids, kind="stable")
        images = cls(
            ids[order],
            np.array(labels, np.str_)[order],
            np.array(scores, np.float64)[order],
            ids[order] if groups is None else np.array(groups, np.str_)[order],
        )
        if (images.image_ids[1:] == images.image_ids[:-1]).any():
            raise IntegrityError("an image was scored twice")
        return images

    def merge(self, other: ImageScores) -> ImageScores:
        """Return the images of both. Raises IntegrityError when an image has two scores, labels or groups."""
        ids = np.concatenate([self.image_ids, other.image_ids])
        kept, first = np.unique(ids, return_index=True)
        labels = np.concatenate([self.labels, other.labels])
        scores = np.concatenate([self.scores, other.scores])
        groups = np.concatenate([self.groups, other.groups])
        index = np.searchsorted(kept, ids)
        if any((values[first][index] != values).any() for values in (labels, scores, groups)):
            raise IntegrityError("one image has two different scores, labels or groups")
        return ImageScores(kept, labels[first], scores[first], groups[first])

    def of_label(self, label: str) -> Floats:
        """Return the scores of images with this label, (m,) float64."""
        scores: Floats = self.scores[self.labels == label]
        return scores

    def only(self, image_ids: npt.NDArray[np.str_]) -> ImageScores:
        """Select images by id; all of them must be present."""
        index = np.searchsorted(self.image_ids, image_ids)
        return ImageScores(self.image_ids[index], self.labels[index], self.scores[index], self.groups[index])

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        return npz.to_bytes("image scores", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageScores:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        return cls(**npz.from_bytes("image scores", _VERSION, data))


@dataclass(frozen=True)
class ImageQuality:
    """Image metrics on the test split."""

    image_auroc: Estimate
    """Area under the ROC curve."""
    image_ap: Estimate
    """Average precision."""
    image_f1_max: Estimate
    """F1 score at the best threshold."""
    recall: Estimate
    """Share of NG images above the threshold."""
    false_alarm_rate: Estimate
    """Share of OK images above the threshold."""


def image_quality(images: ImageScores, threshold: Threshold, draws: int = RESAMPLES, seed: int = 0) -> ImageQuality:
    """Compute image metrics on the images labelled ok and ng.

    AUROC, AP and the highest F1 have percentile intervals of a stratified bootstrap over images. Recall and false-alarm
    rate have Clopper-Pearson intervals.

    Args:
        images: Scores and labels.
        threshold: Threshold of image scores.
        draws: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """
    ok, ng = images.of_label("ok"), images.of_label("ng")
    auroc, ap, f1 = _ranking(ok, ng, draws, seed)
    return ImageQuality(auroc, ap, f1, _share(ng, threshold, "NG"), _share(ok, threshold, "OK"))


class Ranked:
    """Scores of OK and NG images in falling order, with equal scores in one bucket.

    The methods take weights (B, n_ok) and (B, n_ng) of the images, one row per bootstrap resample.
    """

    def __init__(self, ok: Floats, ng: Floats) -> None:
        scores = np.concatenate([ok, ng])
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
        self._ok, self._ng = len(ok), len(ng)

    def _buckets(self, ok: Floats, ng: Floats) -> tuple[Floats, Floats]:
        """Sum the weights in each bucket: (B, K) for normal and for anomalous images."""
        zeros_ok, zeros_ng = np.zeros_like(ok), np.zeros_like(ng)
        both = [np.concatenate(parts, 1)[:, self._order] for parts in ((ok, zeros_ng), (zeros_ok, ng))]
        normal, anomalous = (np.add.reduceat(part, self._starts, axis=1) for part in both)
        return normal, anomalous

    def auroc(self, ok: Floats, ng: Floats) -> Floats:
        """Return the AUROC of each resample, (B,)."""
        return curves.auroc(*self._buckets(ok, ng))

    def all(self, ok: Floats, ng: Floats) -> Floats:
        """Return AUROC, AP and the highest F1 of each resample, (3, B)."""
        buckets = self._buckets(ok, ng)
        return np.stack([curves.auroc(*buckets), curves.average_precision(*buckets), curves.f1_max(*buckets)])


def _ranking(ok: Floats, ng: Floats, draws: int, seed: int) -> list[Estimate]:
    """Estimate AUROC, AP and the highest F1."""
    if undefined := missing(len(ok), len(ng)):
        return [undefined] * 3
    ranked, sizes = Ranked(ok, ng), (len(ok), len(ng))
    values = ranked.all(np.ones((1, len(ok))), np.ones((1, len(ng))))[:, 0].tolist()
    samples = bootstrap(sizes, ranked.all, seed, draws)
    return [
        Estimate(value, *_interval(value, sample, min(sizes)), sum(sizes))
        for value, sample in zip(values, samples, strict=True)
    ]


def _interval(value: float, samples: Floats, n: int) -> tuple[float, float]:
    """Return the percentile interval, or that of n hits among n if the value is a perfect 1.

    Every resample of a perfect ranking is perfect too and tells nothing about its spread. n is the smaller class.
    """
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
    """Return an undefined estimate with its reason if one class has no images, else None."""
    if ok and ng:
        return None
    return Estimate(None, n=ok + ng, reason=f"no {'NG' if ok else 'OK'} images in the test split")
