"""Score new images with a trained detector: a row per image, and a summary counted while rows stream by."""

from __future__ import annotations

import heapq
import itertools
import statistics
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raybench.analysis.admissibility import refusal
from raybench.config.unit import Unit
from raybench.data.geometry import SQUARE_UP_TO
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow
from raybench.metrics.numbers import Threshold
from raybench.metrics.threshold import excess_of
from raybench.runs.records import Failure
from raybench.runs.scores import Predicted
from raybench.runs.thresholds import UsedThreshold

TOP = 20
SAMPLED = 100  # images whose light is measured
FEWEST_SHIFTED = 8
SHIFTED = 0.05  # share of held-back images beyond the median new one
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
    shift: str = ""
    """Warning if the new scores differ from those of held-back OK images."""


@dataclass
class PredictionCounts:
    """Running counts of predicted rows, and the TOP highest scores, each with the key of its shard."""

    images: int = 0
    anomalous: int = 0
    odd_sizes: int = 0
    scores: array[float] = field(default_factory=lambda: array("d"))
    _sample: list[tuple[int, str, str, str]] = field(default_factory=list)
    _top: list[tuple[float, int, Predicted, str]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(0, -1))

    def add(self, row: Predicted, shard_key: str, sha256: str) -> None:
        """Count a row. sha256: hex digest of its image file."""
        self.images += 1
        self.scores.append(row.score)
        self.anomalous += bool(row.is_anomalous)
        self.odd_sizes += row.odd_size
        entry = (row.score, next(self._numbers), row, shard_key)
        if len(self._top) < TOP:
            heapq.heappush(self._top, entry)
        else:
            heapq.heappushpop(self._top, entry)
        drawn = (-int(sha256, 16), sha256, row.image_id, shard_key)  # the lowest digests are a random sample
        (heapq.heappush if len(self._sample) < SAMPLED else heapq.heappushpop)(self._sample, drawn)

    @property
    def sample(self) -> list[tuple[str, str, str]]:
        """Digest, image ID and key of the shard of a random sample of SAMPLED rows, by digest."""
        return sorted(drawn[1:] for drawn in self._sample)

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


def sentence(images: int, anomalous: int, used: UsedThreshold) -> str:
    """Return a sentence with the number of anomalous images, and what is known of the threshold.

    Args:
        images: Number of scored images.
        anomalous: Number of images above the threshold.
        used: The threshold.
    """
    threshold, alarms = used.threshold, used.alarms
    if images == 0:
        return "no image is scored"
    if threshold.value is None:
        return f"{images} images are scored; none can be called anomalous: {threshold.note}"
    are = "image is" if images == 1 else "images are"
    promises = "nothing" if threshold.promised >= 1 else f"at most {100 * threshold.promised:.3g} % false alarms"
    promise = f"{anomalous} of {images} {are} anomalous at the threshold that promises {promises}"
    if alarms is None or alarms.value is None or alarms.low is None or alarms.high is None:
        return promise
    if text := refusal(threshold, alarms, used.test):
        return f"{promise}, but {text}"
    return f"{promise}, and had {alarms.value:.0%} ({alarms.low:.0%}–{alarms.high:.0%}) on {alarms.n} OK test images"


def score_shift(scores: Sequence[float], held_out: Sequence[float]) -> str:
    """Return a warning if most new images score unlike held-back OK images, else an empty string.

    Most images of a line are OK, so the median of new images should lie among the held-back ones, defects or not.

    Args:
        scores: Scores of the new images.
        held_out: Scores of the OK images that were held back in training.
    """
    if len(scores) < FEWEST_SHIFTED or len(held_out) < FEWEST_SHIFTED:
        return ""
    middle = statistics.median(scores)
    below = sum(score < middle for score in held_out) / len(held_out)
    if SHIFTED < below < 1 - SHIFTED:
        return ""
    side = "above" if below >= 0.5 else "below"
    return (
        f"half of the new images score {side} {max(below, 1 - below):.0%} of the held-back OK images: either most are "
        "anomalous, or the line has changed since training and the threshold does not hold"
    )
