"""Score many images batch by batch, and find the one that breaks a model.

A detector's scores do not depend on the batch, so a batch that fails for want of memory is scored by halves, and one
that fails otherwise is halved until the image stands alone that it fails on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from raybench.detectors.protocol import Detector, Images, Scored, checked
from raybench.errors import ModelError


class NamedImages(Protocol):
    """Images at the network's size, with their ids."""

    @property
    def image_ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Images: ...


def score_all(detector: Detector, images: NamedImages, batch: int) -> Iterator[tuple[range, Scored]]:
    """Scores and heat maps of at most `batch` images at a time, each with the positions it belongs to.

    Raises BadScores or ModelError that names the image, MemoryError when a single image does not fit.
    """
    start = 0
    while start < len(images):
        positions = range(start, min(start + batch, len(images)))
        try:
            scored = _scored(detector, images, positions)
        except Exception as error:
            if not _is_memory(error):
                raise _named(error, detector, images, positions) from error
            if len(positions) == 1:
                raise MemoryError(f"image {images.image_ids[start]!r} alone does not fit: {error}") from error
            batch = len(positions) // 2
            continue
        yield positions, scored
        start = positions.stop


def _scored(detector: Detector, images: NamedImages, positions: range) -> Scored:
    return checked(detector.score(images.batch(positions)), len(positions))


def _named(error: Exception, detector: Detector, images: NamedImages, positions: range) -> Exception:
    """`error`, or one that names the first image on which the detector fails alone."""
    for at in positions:
        try:
            _scored(detector, images, range(at, at + 1))
        except Exception as alone:
            kind = type(alone) if isinstance(alone, ModelError) else ModelError
            said = str(alone) if isinstance(alone, ModelError) else f"{type(alone).__name__}: {alone}"
            return kind(f"image {images.image_ids[at]!r}: {said}")
    return error


def _is_memory(error: Exception) -> bool:
    """torch's error of the same name is a RuntimeError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
