from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from raybench.detectors import device_images
from raybench.detectors.device_images import DeviceImages, in_batches, stream
from raybench.detectors.torch_detector import to_tensor
from tests.support.fitting import Images

CPU = torch.device("cpu")
INDICES = ([3, 0, 3], [1], [4, 3, 2, 1, 0])


class Counted(Images):
    """Images that count how often each is read."""

    def __init__(self) -> None:
        super().__init__(5, 8, 12)
        self.reads = [0] * 5
        self.readers = set[str]()

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        self.readers.add(threading.current_thread().name)
        for index in indices:
            self.reads[index] += 1
        return super().batch(indices)


@pytest.mark.parametrize("memory_mb", [None, 0.001, 1.0], ids=["cpu", "too large", "resident"])
def test_batches_are_the_same_wherever_the_images_are(monkeypatch: pytest.MonkeyPatch, memory_mb: float | None) -> None:
    monkeypatch.setattr(device_images, "total_memory_mb", lambda device: memory_mb)
    images = Counted()
    on_device = DeviceImages(images, CPU)
    images.reads = [0] * 5
    for indices, found in zip(INDICES, on_device.batches(INDICES), strict=True):
        expected = to_tensor(images.pixels[indices], CPU)
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
    assert images.reads == ([1] * 5 if memory_mb == 1.0 else [2, 2, 1, 3, 1])


def test_a_thread_reads_for_a_gpu_in_the_order_asked_for() -> None:
    """The meta device stands for a GPU: it has no values, but it is not the CPU."""
    images = Counted()
    shapes = [tuple(batch.shape) for batch in stream(images, INDICES, torch.device("meta"))]
    assert shapes == [(count, 3, 8, 12) for count in (3, 1, 5)]
    assert len(images.readers) == 1
    assert threading.current_thread().name not in images.readers


def test_a_stream_passes_on_what_reading_raises() -> None:
    with pytest.raises(IndexError):
        list(stream(Images(2, 8, 8), [[0], [2]], torch.device("meta")))


def test_all_images_once_in_order() -> None:
    images = Images(5, 8, 12)
    found = list(in_batches(images, 2, CPU))
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert torch.equal(torch.cat(found), to_tensor(images.pixels, CPU))
