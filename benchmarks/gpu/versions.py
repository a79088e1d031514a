"""Names that differ between the versions of the package that are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raybench import errors
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.detectors import torch_detector
from raybench.runs.records import ScoreRecord
from raybench.worker import batches, context, score

PIXELS = 256 * 256


def set_chunk(detector: Any, images: int) -> None:
    """Let a detector score so many images of 256×256 in one forward pass."""
    if hasattr(detector, "_chunk_px"):
        detector._chunk_px = images * PIXELS
        return
    module: Any = torch_detector
    assert isinstance(module._CHUNK_PX, int)
    module._CHUNK_PX = images * PIXELS


def largest_batch(device: str) -> int:
    """Return how many images a task scores in one batch, at most."""
    largest: Any = getattr(batches, "MAX_BATCH", None) or vars(context)["MAX_BATCH"]
    chosen: int = largest if isinstance(largest, int) else largest[device]
    return chosen


def scores(detector: Any, images: Any, batch: int, device: str) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the scores of each batch, as a task computes them."""
    score_all: Any = batches.score_all
    if hasattr(batches, "ScoredBatch"):
        yield from (scored.scored().scores for scored in score_all(detector, images, batch, device))
    else:
        yield from (scored.scores for _, _, scored in score_all(detector, images, batch))


def score_shards(unit: Unit, manifest: Manifest, shards: Sequence[ShardInfo], context: Any) -> list[ScoreRecord]:
    """Score some shards as one task does; an earlier version has a task for each."""
    if hasattr(score, "score_shards"):
        return score.score_shards(unit, manifest, shards, context)
    return [score.score(unit, manifest, shard, context) for shard in shards]


def is_memory(error: Exception) -> bool:
    """Return whether the package takes the error for want of memory."""
    known: Any = getattr(errors, "is_out_of_memory", None) or getattr(batches, "_is_memory", None)
    return bool(known(error))


def is_broken(error: Exception) -> bool | None:
    """Return whether the package takes the error for a GPU that this process has lost; None if it does not tell."""
    known: Any = getattr(errors, "is_gpu_lost", None)
    return None if known is None else bool(known(error))


def precision() -> dict[str, str]:
    """Return torch's precision of float32 convolutions and matrix products on a GPU."""
    backends: Any = torch.backends
    return {"conv": backends.cudnn.conv.fp32_precision, "matmul": backends.cuda.matmul.fp32_precision}
