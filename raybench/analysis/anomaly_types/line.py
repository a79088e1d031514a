"""The references of a packed line, from a bounded number of its OK training images."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

from raybench.analysis.anomaly_types.references import COMPARED, FEWEST, LEARNT_FROM, ReferenceBank
from raybench.analysis.anomaly_types.training_samples import TrainingSamples
from raybench.data.decode import decode_image
from raybench.data.manifest import Manifest
from raybench.data.shards import read_rows
from raybench.store import Store

COUNT = COMPARED + LEARNT_FROM
SHARDS = 4

Item = TypeVar("Item")


def references_of(
    lines: Store, manifest: Manifest, lessons: TrainingSamples | None = None, count: int = COUNT
) -> ReferenceBank | None:
    """From `count` OK training images of a few shards spread over the line, or None where there are too few to compare
    with. Memory and work do not grow with the line. lessons: kept from an earlier time. Raises IntegrityError and the
    store's own errors."""
    train = manifest.shards_of("train")
    shards = train[:: max(1, -(-len(train) // SHARDS))]
    rows = (row for shard in shards for row in read_rows(lines, shard, images=False))
    chosen = set(sample((row.image_id for row in rows if row.label == "ok"), count))
    if len(chosen) < FEWEST:
        return None
    images = (
        decode_image(row.image, manifest.white_level)
        for shard in shards
        for row in read_rows(lines, shard, only=chosen)
    )
    return ReferenceBank.of(images, lessons)


def sample(items: Iterable[Item], count: int, seed: int = 0) -> list[Item]:
    """`count` of any number of items, each as likely as another.

    Reservoir sampling (Vitter 1985, algorithm R): memory does not grow with their number.
    """
    rng = random.Random(seed)  # noqa: S311
    kept: list[Item] = []
    for at, item in enumerate(items):
        if at < count:
            kept.append(item)
        elif (place := rng.randrange(at + 1)) < count:
            kept[place] = item
    return kept
