"""Reference banks: what a line's OK images look like, and a classifier of anomaly types fitted to them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from raybench.analysis.anomaly_types.classifier import AnomalyTypeClassifier, TrainingSamples, make_training_samples
from raybench.analysis.anomaly_types.features import ALIGNED, Features, ReferenceStatistics, extract_features
from raybench.analysis.anomaly_types.moves import Spectra, best_move, spectra
from raybench.analysis.anomaly_types.views import FINE, Image, View, make_view, shrunk, working_size
from raybench.data.line import decode_inside
from raybench.data.manifest import Manifest
from raybench.data.shards import read_rows
from raybench.store import Store

FEWEST = ALIGNED + 1
COMPARED, LEARNT_FROM = 24, 18  # number of images; if there are fewer in all, some serve for both
COUNT = COMPARED + LEARNT_FROM
SHARDS = 4
_FARTHEST_PX = 2  # pixels of a pattern: the largest shift that may still count as in place
_COMMON = 0.9  # quantile

Item = TypeVar("Item")


@dataclass(frozen=True)
class ReferenceBank:
    """The references of a line, with the classifier that learnt from them."""

    statistics: ReferenceStatistics
    """The references that images are compared with."""
    samples: TrainingSamples
    """Features of the line's perturbed images."""
    classifier: AnomalyTypeClassifier
    """Fitted to `samples`."""
    size: tuple[int, int]
    """(H, W) of the working size."""

    @classmethod
    def of(cls, images: Iterable[Image], samples: TrainingSamples | None = None) -> ReferenceBank:
        """Build a reference bank: images are compared with COMPARED of the references; LEARNT_FROM are perturbed.

        Args:
            images: OK images, (H, W, 3) uint8 RGB.
            samples: Samples made from these very images before. Making them takes most of the time.

        Raises:
            ValueError: There are fewer than FEWEST images.
        """
        small: list[Image] = []
        size: tuple[int, int] | None = None
        for image in images:
            size = size or working_size(image.shape[0], image.shape[1])
            small.append(shrunk(image, (FINE * size[0], FINE * size[1])))
        if size is None or len(small) < FEWEST:
            raise ValueError(f"anomaly types need {FEWEST} OK images of a line to compare with, there are {len(small)}")
        small = [small[index] for index in np.random.default_rng(0).permutation(len(small))]
        statistics = _statistics([make_view(image, size) for image in small[:COMPARED]])
        if samples is None:
            indexed = [(small[index], index if index < COMPARED else None) for index in range(len(small))]
            samples = make_training_samples(statistics, indexed[-LEARNT_FROM:])
        return cls(statistics, samples, AnomalyTypeClassifier.fit(samples), size)

    def extract(self, image: Image) -> Features:
        """Extract the features of an image, (H, W, 3) uint8 RGB of any size."""
        return extract_features(make_view(image, self.size), self.statistics)


def build_reference_bank(
    lines: Store, manifest: Manifest, samples: TrainingSamples | None = None, count: int = COUNT
) -> ReferenceBank | None:
    """Build the reference bank of a packed line, in time and memory that do not grow with the line.

    Args:
        lines: Store that holds the line.
        manifest: Manifest of the line.
        samples: Samples stored before.
        count: Number of OK training images to draw, from a few shards spread over the line.

    Returns:
        The reference bank; None if there are too few images to compare with.

    Raises:
        IntegrityError: A shard is damaged. The store's own errors are raised as well.
    """
    train = manifest.shards_of("train")
    shards = train[:: max(1, -(-len(train) // SHARDS))]
    rows = (row for shard in shards for row in read_rows(lines, shard, images=False))
    chosen = set(sample((row.image_id for row in rows if row.label == "ok"), count))
    if len(chosen) < FEWEST:
        return None
    images = (decode_inside(row, manifest) for shard in shards for row in read_rows(lines, shard, only=chosen))
    return ReferenceBank.of(images, samples)


def sample(items: Iterable[Item], count: int, seed: int = 0) -> list[Item]:
    """Draw `count` items uniformly by reservoir sampling (Vitter 1985, algorithm R), in memory for `count` items."""
    rng = random.Random(seed)  # noqa: S311
    kept: list[Item] = []
    for position, item in enumerate(items):
        if position < count:
            kept.append(item)
        elif (replaced := rng.randrange(position + 1)) < count:
            kept[replaced] = item
    return kept


def _statistics(views: list[View]) -> ReferenceStatistics:
    patterns = spectra(np.stack([view.pattern for view in views]))
    return ReferenceStatistics(
        views=tuple(views),
        patterns=patterns,
        light=np.stack([view.light for view in views]),
        levels=np.stack([view.levels for view in views]),
        directions=np.stack([view.directions for view in views]),
        near_px=_near_px(views, patterns),
    )


def _near_px(views: list[View], patterns: Spectra) -> int:
    """Return the common shift between OK images, in pixels of a pattern."""
    indices = np.arange(len(views))
    moves = [
        best_move(view.pattern, patterns, _FARTHEST_PX, np.delete(indices, index), posed=False)
        for index, view in enumerate(views)
    ]
    shifts = [float(np.abs(move.shift_in_place_px).max()) for move in moves]
    return min(_FARTHEST_PX, int(np.ceil(np.quantile(shifts, _COMMON))))
