"""Score many images batch by batch, and name the image that breaks a model.

A detector's scores do not depend on the batch. A batch that does not fit into memory is therefore halved. After any
other failure, the images of the batch are scored one by one to find the image that causes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from raybench.detectors.protocol import Detector, Images, OnDevice, Scored, checked
from raybench.errors import BadScores, ModelError, is_gpu_lost, is_out_of_memory

MAX_BATCH = {"cpu": 16, "cuda": 32}
"""Images per batch when scoring, at most."""
T = TypeVar("T")


class NamedImages(Protocol):
    """Images at the network's size, with their ids."""

    @property
    def image_ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Images: ...


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """A batch of images with their results."""

    positions: range
    """Positions of the images."""
    pixels: Images
    """(B, H, W, 3) uint8."""
    heatmaps: Any | None
    """(B, H, W) float32 heat maps, where the detector left them: a NumPy array, or a tensor on its device."""
    scored: Callable[[], Scored]
    """Returns scores and heat maps on the host; waits for the device. Raises BadScores, which names the image."""


def score_all(detector: Detector, images: NamedImages, batch: int, device: str = "cpu") -> Iterator[ScoredBatch]:
    """Score all images in batches, in order.

    On a GPU the next batch is read and uploaded meanwhile, and heat maps are left there by detectors that can do so.

    Args:
        detector: A trained detector. It must not write to the pixels that it is given: they are yielded afterwards.
        images: Images at the network's size.
        batch: Images per batch, at most. It is halved for the rest of the pass when a batch does not fit into memory.
        device: Torch's name of the detector's device.

    Raises:
        BadScores: The detector returned bad scores or heat maps; the message names the image.
        ModelError: The detector failed in another way; the message names the image.
        MemoryError: A single image does not fit into memory.
        Exception: The detector's own, if the GPU is lost; no image is to blame.
    """
    ranges = [range(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    read = ((positions, images.batch(positions)) for positions in ranges)
    on_device = detector if device != "cpu" and isinstance(detector, OnDevice) else None
    for positions, pixels in read if device == "cpu" else ahead(read):
        start = 0
        while start < len(positions):
            part = slice(start, start + batch)
            try:
                if on_device:
                    scored = _score_on_device(on_device, images, positions[part], pixels[part])
                else:
                    scored = _score_on_host(detector, positions[part], pixels[part])
            except Exception as error:
                if is_gpu_lost(error):
                    raise
                if not is_out_of_memory(error):
                    raise _name_image(error, detector, images, positions[part]) from error
                if len(positions[part]) == 1:
                    name = images.image_ids[positions[start]]
                    raise MemoryError(f"image {name!r} alone does not fit: {error}") from error
                batch = len(positions[part]) // 2
            else:
                yield scored
                start = part.stop


def _score_on_host(detector: Detector, positions: range, pixels: Images) -> ScoredBatch:
    scored = checked(detector.score(pixels), len(positions))
    return ScoredBatch(positions, pixels, scored.heatmaps, lambda: scored)


def _score_on_device(detector: OnDevice, images: NamedImages, positions: range, pixels: Images) -> ScoredBatch:
    from raybench.detectors import device  # a CPU task may not need torch, which takes seconds to import

    scored = detector.score_on_device(detector.upload(pixels))
    scores, maps = device.copy_to_host(scored.scores), device.copy_to_host(scored.heatmaps)

    def wait() -> Scored:
        found = Scored(scores(), maps())
        for index, position in enumerate(positions):
            finite = np.isfinite(found.scores[index]) and (
                found.heatmaps is None or np.isfinite(found.heatmaps[index]).all()
            )
            if not finite:
                raise BadScores(f"image {images.image_ids[position]!r}: its score or heat map is not finite")
        return found

    return ScoredBatch(positions, pixels, scored.heatmaps, wait)


def _name_image(error: Exception, detector: Detector, images: NamedImages, positions: range) -> Exception:
    """Return an error that names the first image on which the detector fails alone, or `error` if there is none."""
    for position in positions:
        try:
            _score_on_host(detector, range(position, position + 1), images.batch([position]))
        except Exception as alone:
            if is_gpu_lost(alone):
                return alone
            kind = type(alone) if isinstance(alone, ModelError) else ModelError
            message = str(alone) if isinstance(alone, ModelError) else f"{type(alone).__name__}: {alone}"
            return kind(f"image {images.image_ids[position]!r}: {message}")
    return error


def ahead(items: Iterable[T], count: int = 2) -> Iterator[T]:
    """Yield `items`, which a thread on the same GPU computes up to `count` in advance.

    An exception of theirs is raised in turn.
    """
    from raybench.detectors import device  # a CPU task may not need torch, which takes seconds to import

    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, initializer=device.thread_on_same_gpu()) as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]
