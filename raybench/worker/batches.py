"""Score many images batch by batch, and name the image that breaks a model.

A detector's scores do not depend on the batch. A batch that does not fit into memory is therefore halved. After any
other failure, the images of the batch are scored one by one to find the image that causes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from raybench.detectors.protocol import Detector, Images, Scored, checked
from raybench.errors import ModelError, is_gpu_lost, is_out_of_memory


class NamedImages(Protocol):
    """Images at the network's size, with their ids."""

    @property
    def image_ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Images: ...


def score_all(detector: Detector, images: NamedImages, batch: int) -> Iterator[tuple[range, Images, Scored]]:
    """Score all images in batches, in order.

    Args:
        detector: A trained detector. It must not write to the pixels that it is given: they are yielded afterwards.
        images: Images at the network's size.
        batch: Images per batch, at most. It is halved for the rest of the pass when a batch does not fit into memory.

    Yields:
        For each batch, the positions in `images`, the pixels (B, H, W, 3) uint8, and their scores and heat maps.

    Raises:
        BadScores: The detector returned bad scores or heat maps; the message names the image.
        ModelError: The detector failed in another way; the message names the image.
        MemoryError: A single image does not fit into memory.
        Exception: The detector's own, if the GPU is lost; no image is to blame.
    """
    start = 0
    while start < len(images):
        positions = range(start, min(start + batch, len(images)))
        try:
            pixels, scored = _score_batch(detector, images, positions)
        except Exception as error:
            if is_gpu_lost(error):
                raise
            if not is_out_of_memory(error):
                raise _name_image(error, detector, images, positions) from error
            if len(positions) == 1:
                raise MemoryError(f"image {images.image_ids[start]!r} alone does not fit: {error}") from error
            batch = len(positions) // 2
            continue
        yield positions, pixels, scored
        start = positions.stop


def _score_batch(detector: Detector, images: NamedImages, positions: range) -> tuple[Images, Scored]:
    pixels = images.batch(positions)
    return pixels, checked(detector.score(pixels), len(positions))


def _name_image(error: Exception, detector: Detector, images: NamedImages, positions: range) -> Exception:
    """Return an error that names the first image on which the detector fails alone, or `error` if there is none."""
    for position in positions:
        try:
            _score_batch(detector, images, range(position, position + 1))
        except Exception as alone:
            if is_gpu_lost(alone):
                return alone
            kind = type(alone) if isinstance(alone, ModelError) else ModelError
            message = str(alone) if isinstance(alone, ModelError) else f"{type(alone).__name__}: {alone}"
            return kind(f"image {images.image_ids[position]!r}: {message}")
    return error
