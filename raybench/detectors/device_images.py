"""Training images as tensors on the device: read ahead, or kept in the device's memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from raybench.detectors.device import pinned, thread_on_same_gpu, total_memory_mb, upload
from raybench.detectors.protocol import TrainImages
from raybench.detectors.torch_detector import to_float, to_tensor

_SHARE = 0.04  # of the device's memory, the most that the images of one training take
_AHEAD = 2  # batches that are read before they are asked for


class DeviceImages:
    """Images for a training that reads them many times.

    On a GPU each image is read once and stays there as uint8, if all of them take at most 4 % of its memory. Other
    images are read again for every batch: on a CPU from the page cache, for a GPU ahead of time by a thread.

    Args:
        images: The images.
        device: Device of the returned tensors.
    """

    def __init__(self, images: TrainImages, device: torch.device) -> None:
        self._images, self._device = images, device
        self._missing = set(range(len(images)))
        self._pixels: Tensor | None = None
        if (memory_mb := total_memory_mb(str(device))) and self._missing:
            shape = images.batch([0]).shape[1:]
            if len(images) * math.prod(shape) <= _SHARE * memory_mb * 1e6:
                self._pixels = torch.empty((len(images), *shape), dtype=torch.uint8, device=device)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return the images at `indices`, in that order: (B, 3, H, W) float32 in [0, 1]."""
        if self._pixels is None:
            return to_tensor(self._images.batch(indices), self._device)
        if missing := sorted(self._missing.intersection(indices)):
            pixels = upload(torch.from_numpy(self._images.batch(missing)), self._device)
            self._pixels.index_copy_(0, self._places(missing), pixels)
            self._missing.difference_update(missing)
        return to_float(self._pixels.index_select(0, self._places(indices)))

    def batches(self, batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """Yield the images of each of `batches` of indices, as `batch` returns them."""
        if self._pixels is None:
            yield from stream(self._images, batches, self._device)
        else:
            yield from map(self.batch, batches)

    def _places(self, indices: Sequence[int]) -> Tensor:
        return upload(torch.tensor(indices), self._device)


def in_batches(images: TrainImages, size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield all images once, in order: (B, 3, H, W) float32 in [0, 1]."""
    starts = range(0, len(images), size)
    return stream(images, (range(start, min(start + size, len(images))) for start in starts), device)


def stream(images: TrainImages, batches: Iterable[Sequence[int]], device: torch.device) -> Iterator[Tensor]:
    """Yield the images of each of `batches` of indices: (B, 3, H, W) float32 in [0, 1].

    A thread reads for a GPU. On a CPU a thread would take a core from the network.
    """
    if device.type == "cpu":
        for indices in batches:
            yield to_tensor(images.batch(indices), device)
        return

    def read(indices: Sequence[int]) -> Tensor:
        return pinned(torch.from_numpy(images.batch(indices)), device)

    with ThreadPoolExecutor(1, initializer=thread_on_same_gpu()) as reader:
        waiting: deque[Future[Tensor]] = deque()
        for indices in batches:
            waiting.append(reader.submit(read, indices))
            if len(waiting) > _AHEAD:
                yield to_float(waiting.popleft().result().to(device, non_blocking=True))
        while waiting:
            yield to_float(waiting.popleft().result().to(device, non_blocking=True))
