"""Image metrics: how well scores separate NG from OK images, and recall and false alarms at the threshold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import curves, npz
from raybench.metrics.intervals import (
    RESAMPLES,
    Indices,
    bootstrap,
    group_numbers,
    share_interval,
)
from raybench.metrics.numbers import Estimate, Threshold
from raybench.metrics.separation import auroc_interval, ranking_interval

_VERSION = 3  # since version 2, images have groups; since version 3, pools
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


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
    pools: npt.NDArray[np.str_]
    """(n,) str: the pool of unlabelled images that an image was packed in; empty for one that was labelled then."""
    counts: Bools
    """(n,) bool: whether its label counts in metrics. One that somebody chose from a pool does not, see
    `metrics.sampling`."""

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
        pools: Sequence[str] | None = None,
        counts: Sequence[bool] | None = None,
    ) -> ImageScores:
        """Sort scores by image id. Raises IntegrityError when an id is duplicated.

        Args:
            image_ids: Ids of the images.
            labels: Their labels.
            scores: Their raw scores.
            groups: Their groups, the image id of an image that belongs to none. None if no image belongs to a group.
            pools: Their pools. None if no image was in one.
            counts: Whether they count. None if all do.
        """
        ids = np.array(image_ids, dtype=np.str_)
        order = np.argsort(ids, kind="stable")
        images = cls(
            ids[order],
            np.array(labels, np.str_)[order],
            np.array(scores, np.float64)[order],
            ids[order] if groups is None else np.array(groups, np.str_)[order],
            np.full(len(ids), "") if pools is None else np.array(pools, np.str_)[order],
            np.ones(len(ids), bool) if counts is None else np.array(counts, bool)[order],
        )
        if (images.image_ids[1:] == images.image_ids[:-1]).any():
            raise IntegrityError("an image was scored twice")
        return images

    def merge(self, other: ImageScores) -> ImageScores:
        """Return the images of both. Raises IntegrityError when an image has two scores, labels or groups."""
        ids = np.concatenate([self.image_ids, other.image_ids])
        kept, first = np.unique(ids, return_index=True)
        columns = [
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("labels", "scores", "groups", "pools", "counts")
        ]
        index = np.searchsorted(kept, ids)
        if any((values[first][index] != values).any() for values in columns):
            raise IntegrityError("one image has two different scores, labels or groups")
        return ImageScores(kept, *(values[first] for values in columns))

    def counted(self, label: str) -> Bools:
        """Mark the images with this label that count in metrics, (n,) bool."""
        marks: Bools = (self.labels == label) & self.counts
        return marks

    def of_label(self, label: str) -> Floats:
        """Return the scores of the counted images with this label, (m,) float64."""
        scores: Floats = self.scores[self.counted(label)]
        return scores

    def groups_of(self, label: str) -> Indices:
        """Number the groups of the counted images with this label, (m,) int64 from 0."""
        return group_numbers(self.groups[self.counted(label)])

    @property
    def chosen(self) -> int:
        """Number of labelled images that do not count."""
        return int(((self.labels != "unknown") & ~self.counts).sum())

    def with_duplicates(self, duplicates: Iterable[Collection[str]]) -> ImageScores:
        """Return the scores with one group for all images of a set of duplicates, and for the groups that it links.

        Args:
            duplicates: Image IDs of each set; IDs of other images are ignored.
        """
        group_of = dict(zip(self.image_ids.tolist(), self.groups.tolist(), strict=True))
        parent: dict[str, str] = {}

        def root(name: str) -> str:
            while name in parent:
                name = parent[name]
            return name

        for ids in duplicates:
            first, *others = sorted({root(group_of[image_id]) for image_id in ids if image_id in group_of}) or [""]
            parent |= dict.fromkeys(others, first)
        if not parent:
            return self
        return replace(self, groups=np.array([root(name) for name in self.groups.tolist()], np.str_))

    def only(self, image_ids: npt.NDArray[np.str_]) -> ImageScores:
        """Select images by id; all of them must be present."""
        index = np.searchsorted(self.image_ids, image_ids)
        return ImageScores(*(values[index] for values in vars(self).values()))

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
    """Compute image metrics on the images labelled ok and ng, with intervals over groups of images.

    The intervals of AUROC, AP and the highest F1 are those of `metrics.separation`. Those of recall and false-alarm
    rate are Clopper and Pearson's, see `intervals.share_interval`.

    Args:
        images: Scores, labels and groups.
        threshold: Threshold of image scores.
        draws: Number of resamples.
        seed: Seed of the resamples.
    """
    ok, ng = images.of_label("ok"), images.of_label("ng")
    groups = images.groups_of("ok"), images.groups_of("ng")
    auroc, ap, f1 = _ranking(ok, ng, groups, draws, seed)
    return ImageQuality(auroc, ap, f1, share_above(images, "ng", threshold), share_above(images, "ok", threshold))


class Ranked:
    """Scores of OK and NG images in falling order, with equal scores in one bucket.

    The methods take weights (B, n_ok) and (B, n_ng) of the images, one row per bootstrap resample.
    """

    def __init__(self, ok: Floats, ng: Floats) -> None:
        scores = np.concatenate([ok, ng])
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._starts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
        self._is_ng = (self._order >= len(ok)).astype(np.float64)

    def _buckets(self, ok: Floats, ng: Floats) -> tuple[Floats, Floats]:
        """Sum the weights in each bucket: (B, K) for normal and for anomalous images."""
        weights = np.concatenate([ok, ng], 1)[:, self._order]
        anomalous = weights * self._is_ng
        normal = weights - anomalous
        if len(self._starts) == len(self._order):
            return normal, anomalous
        return np.add.reduceat(normal, self._starts, axis=1), np.add.reduceat(anomalous, self._starts, axis=1)

    def auroc_and_recall(self, ok: Floats, ng: Floats, false_alarm_rate: float) -> Floats:
        """Return the AUROC of each resample, and its recall at a false-alarm rate on its own OK images, (2, B)."""
        buckets = self._buckets(ok, ng)
        return np.stack([curves.auroc(*buckets), curves.true_rate(*buckets, false_alarm_rate)])

    def all(self, ok: Floats, ng: Floats) -> Floats:
        """Return AUROC, AP and the highest F1 of each resample, (3, B)."""
        buckets = self._buckets(ok, ng)
        return np.stack([curves.auroc(*buckets), curves.average_precision(*buckets), curves.f1_max(*buckets)])


def _ranking(ok: Floats, ng: Floats, groups: tuple[Indices, Indices], draws: int, seed: int) -> list[Estimate]:
    """Estimate AUROC, AP and the highest F1."""
    if undefined := missing(len(ok), len(ng)):
        return [undefined] * 3
    ranked, sizes = Ranked(ok, ng), (len(ok), len(ng))
    values = ranked.all(np.ones((1, len(ok))), np.ones((1, len(ng))))[:, 0].tolist()
    samples = bootstrap(groups, ranked.all, seed, draws)
    counts = len(np.unique(groups[0])), len(np.unique(groups[1]))
    auroc, *others = zip(values, samples, strict=True)
    intervals = [auroc_interval(*auroc, sizes, counts)]
    intervals += [ranking_interval(value, sample, min(counts)) for value, sample in others]
    return [Estimate(value, *interval, sum(sizes)) for value, interval in zip(values, intervals, strict=True)]


def share_above(images: ImageScores, label: str, threshold: Threshold) -> Estimate:
    """Estimate the share of images with this label above a threshold."""
    scores = images.of_label(label)
    if threshold.value is None:
        return Estimate(None, n=len(scores), reason=f"no threshold: {threshold.note}")
    return share_of(scores > threshold.value, images.groups_of(label), label.upper())


def share_of(hits: npt.NDArray[np.bool_], groups: Indices, name: str) -> Estimate:
    """Estimate the share of hits among (n,) images, of which `groups` gives the groups."""
    if len(hits) == 0:
        return Estimate(None, reason=f"no {name} images in the test split")
    return Estimate(float(hits.mean()), *share_interval(hits, groups), len(hits))


def missing(ok: int, ng: int) -> Estimate | None:
    """Return an undefined estimate with its reason if one class has no images, else None."""
    if ok and ng:
        return None
    return Estimate(None, n=ok + ng, reason=f"no {'NG' if ok else 'OK'} images in the test split")
