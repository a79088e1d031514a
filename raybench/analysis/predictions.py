"""Score new images with a trained detector: a row per image, and a summary counted while rows stream by."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from raybench.config.unit import Unit
from raybench.data.geometry import SQUARE_UP_TO
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import excess_of
from raybench.runs.records import Failure
from raybench.runs.scores import Predicted

TOP = 20
ODD_SIZE = 2.0  # a side this many times longer than the line's longest, or shorter than its shortest, is odd


@dataclass(frozen=True)
class PredictionSummary:
    """The result of scoring new images with one unit of a run."""

    run: str
    prediction: str
    source: str
    line: str
    model: str
    unit_id: str
    images: int
    """Number of scored images."""
    anomalous: int | None
    """Number of images above the threshold; None without a threshold."""
    threshold: Threshold
    odd_sizes: int
    """Number of images whose size or aspect does not occur on the line."""
    rejected: Mapping[str, int]
    """Number of images that could not be packed, by reason."""
    failed: Mapping[str, Failure]
    """Failure of each shard that could not be scored."""
    not_scored: int
    """Number of images in failed shards."""
    top: tuple[Predicted, ...]
    """Images with the highest scores."""
    sentence: str


@dataclass
class PredictionCounts:
    """Running counts of predicted rows, and the TOP highest scores, each with the key of its shard."""

    images: int = 0
    anomalous: int = 0
    odd_sizes: int = 0
    _top: list[tuple[float, int, Predicted, str]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(0, -1))

    def add(self, row: Predicted, shard_key: str) -> None:
        """Count a row."""
        self.images += 1
        self.anomalous += bool(row.is_anomalous)
        self.odd_sizes += row.odd_size
        entry = (row.score, next(self._numbers), row, shard_key)
        if len(self._top) < TOP:
            heapq.heappush(self._top, entry)
        else:
            heapq.heappushpop(self._top, entry)

    @property
    def top(self) -> list[tuple[Predicted, str]]:
        """Rows with the keys of their shards, the highest score first; ties in the order in which they were added."""
        return [(row, shard_key) for _, _, row, shard_key in sorted(self._top, key=lambda entry: entry[:2])[::-1]]


def predict_image(row: ImageRow, score: float, unit: Unit, threshold: Threshold, line: Manifest) -> Predicted:
    """Compare an image's score with the unit's threshold.

    Args:
        row: The image.
        score: Its raw score.
        unit: The unit that scored it.
        threshold: The unit's threshold.
        line: Manifest of the line that the unit was trained on.
    """
    limit = threshold.value
    return Predicted(
        image_id=row.image_id,
        line=unit.line,
        model=unit.model,
        score=score,
        is_anomalous=None if limit is None else score > limit,
        threshold=limit,
        excess=None if limit is None else excess_of(score, threshold),
        height=row.height,
        width=row.width,
        odd_size=is_odd(row.height, row.width, line),
    )


def is_odd(height: int, width: int, line: Manifest) -> bool:
    """Return whether an image's size or aspect lies outside the range of the line's.

    After resizing, the detector would see such an image at another scale or aspect than its training images. The
    threshold guarantees nothing for it.
    """
    aspect = height / width
    lowest, highest = line.min_height / line.max_width, line.max_height / line.min_width
    return not (
        line.min_height / ODD_SIZE <= height <= line.max_height * ODD_SIZE
        and line.min_width / ODD_SIZE <= width <= line.max_width * ODD_SIZE
        and lowest / SQUARE_UP_TO <= aspect <= highest * SQUARE_UP_TO
    )


def reasons(images: Manifest) -> dict[str, int]:
    """Count rejected images by reason."""
    return dict(sorted(Counter(reject.reason for reject in images.rejects).items()))


def sentence(images: int, anomalous: int, threshold: Threshold) -> str:
    """Return a sentence with the number of anomalous images."""
    if images == 0:
        return "no image is scored"
    if threshold.value is None:
        return f"{images} images are scored; none can be called anomalous: {threshold.note}"
    are = "image is" if images == 1 else "images are"
    return (
        f"{anomalous} of {images} {are} anomalous at the threshold that promises at most "
        f"{100 * threshold.promised:.3g} % false alarms"
    )
