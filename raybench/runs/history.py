"""What predictions found on a line, batch by batch: a small record each, so that a line can be watched over time.

runs/<run>/watch/<line>/<detector_id>/<unit_id>.json

A record is named by the unit of its prediction, which hashes the images, the detector and the threshold. It is written
once, put-if-absent, and never changed: scoring the same images again adds nothing. A record needs nothing else of the
store to be read, so a history outlives the images and the detector that it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from raybench.errors import InputError
from raybench.metrics.numbers import Threshold
from raybench.runs.run import RunStore, decode, encode

FOLDER = "watch"
QUANTILES = tuple(number / 20 for number in range(21))
"""Which quantiles a record has of a value: from the lowest to the highest one, by steps of 5 %."""
SAMPLE = 32
READERS = 16
_REPEATED = 0.5  # of the images of an earlier batch


@dataclass(frozen=True)
class Batch:
    """What one prediction found."""

    at: str
    """When the images were taken, as far as is known: when they were scored, or what `--at` said. ISO 8601, in UTC."""
    prediction: str
    """Name of the prediction."""
    line: str
    """The product line."""
    model: str
    """Label of the model."""
    detector_id: str
    """The detector, see `Unit.detector_id`."""
    unit_id: str
    """The unit of the prediction."""
    images: int
    """Number of scored images."""
    threshold: Threshold
    """The threshold in use."""
    flagged: int | None
    """Number of images above the threshold. None without a threshold."""
    odd_sizes: int
    """Number of images of a size or an aspect that the line does not have."""
    rejected: int
    """Number of files that could not be packed."""
    quantiles: Mapping[str, tuple[float, ...]]
    """Quantiles at QUANTILES of the scores (`scores`) and of properties of a sample of the images, by name."""
    measured: int
    """Number of images in that sample."""
    types: Mapping[str, int]
    """How many of the most anomalous images are of each anomaly type. Empty where nothing was classified."""
    sample: tuple[str, ...]
    """The lowest digests of image files, SAMPLE at most: a random sample by which repeated images are recognised
    (Broder 1997, *On the resemblance and containment of documents*)."""

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.at)


def utc_time(text: str | None) -> str:
    """Return a time as `Batch.at` has it; now for None. A time without a zone is UTC.

    Raises:
        InputError: The text is not a time.
    """
    try:
        found = datetime.fromisoformat(text) if text else datetime.now(UTC)
    except ValueError as error:
        raise InputError(f"{text!r} is not a time: write 2026-03-01 or 2026-03-01T06:00") from error
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    return found.astimezone(UTC).isoformat(timespec="seconds")


def add_batch(run: RunStore, batch: Batch) -> Batch:
    """Add a batch to the history of its line unless it is there already; return the one that is there."""
    key = batch_key(run, batch)
    if run.store.put_if_absent(key, encode(batch)):
        return batch
    return decode(Batch, run.store.get(key), run.store.uri(key))


def batch_key(run: RunStore, batch: Batch) -> str:
    """Return where a batch lies in the store."""
    return f"{run.root}/{FOLDER}/{batch.line}/{batch.detector_id}/{batch.unit_id}.json"


def read_batches(run: RunStore, line: str, detector_id: str) -> list[Batch]:
    """Read the history of a line and a detector, in the order of time and without repeats.

    Raises:
        IntegrityError: A record is damaged.
    """
    store = run.store
    keys = [item.key for item in store.list(f"{run.root}/{FOLDER}/{line}/{detector_id}/")]
    with ThreadPoolExecutor(READERS) as pool:
        return without_repeats(pool.map(lambda key: decode(Batch, store.get(key), store.uri(key)), keys))


def without_repeats(batches: Iterable[Batch]) -> list[Batch]:
    """Let each image count once: a batch replaces an earlier one, half of whose images it has, at that one's time.

    So a folder that fills up over the day may be scored each hour, and old images may be scored again at another
    threshold.

    Returns:
        The batches that are left, in the order of time.
    """
    kept: list[Batch] = []
    seen: set[str] = set()
    for batch in sorted(batches, key=lambda batch: (batch.time, batch.unit_id), reverse=True):
        found = None
        if not seen.isdisjoint(batch.sample):
            found = next(
                (at for at, other in enumerate(kept) if _share_in(batch.sample, other.sample) >= _REPEATED), None
            )
        if found is None:
            kept.append(batch)
        else:
            kept[found] = replace(kept[found], at=batch.at)
        seen.update(batch.sample)
    return sorted(kept, key=lambda batch: (batch.time, batch.unit_id))


def _share_in(part: tuple[str, ...], whole: tuple[str, ...]) -> float:
    """Estimate the share of a batch's images that another one has, too, from the samples of both."""
    last = whole[-1] if len(whole) == SAMPLE else "g"  # "g" comes after every digest
    comparable = [digest for digest in part if digest <= last]
    return len(set(comparable) & set(whole)) / len(comparable) if comparable else 0.0
