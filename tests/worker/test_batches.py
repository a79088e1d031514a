from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from raybench.detectors.protocol import Card, Detector, DeviceScored, FitContext, Images, OnDevice, Scored, TrainImages
from raybench.errors import BadScores, ModelError
from raybench.worker.batches import ahead, score_all


class Some:
    """`count` images of 2x2; each is its own number."""

    def __init__(self, count: int) -> None:
        self.image_ids = tuple(f"i{number}" for number in range(count))

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, indices: Sequence[int]) -> Images:
        return np.array([np.full((2, 2, 3), at, np.uint8) for at in indices])


Spoil = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float32]], Scored]


class Spoilt(Detector):
    """Scores are the image's number, after what `spoil` does."""

    def __init__(self, spoil: Spoil) -> None:
        self.spoil = spoil
        self.sizes: list[int] = []

    def score(self, images: Images) -> Scored:
        self.sizes.append(len(images))
        return self.spoil(images[:, 0, 0, 0].astype(np.float64), images[:, :, :, 0].astype(np.float32))

    def fit(self, images: TrainImages, context: FitContext) -> None: ...
    def save(self, folder: Path) -> None: ...
    def restore(self, folder: Path) -> None: ...
    def card(self) -> Card:
        return Card("spoilt", "none", "none", "", 0)


class SpoiltOnDevice(Spoilt):
    """The same with results that stay on the device: tensors, of the CPU here."""

    def upload(self, images: Images) -> Tensor:
        return torch.from_numpy(images)

    def score_on_device(self, images: Tensor) -> DeviceScored:
        scored = self.score(images.numpy())
        maps = scored.heatmaps
        return DeviceScored(torch.from_numpy(scored.scores), None if maps is None else torch.from_numpy(maps))


@dataclass(frozen=True)
class Device:
    """A device, and a kind of detector whose results stay there or come to the host."""

    name: str
    kind: type[Spoilt]

    def all_scores(self, detector: Spoilt, count: int, batch: int) -> list[float]:
        batches = score_all(detector, Some(count), batch, self.name)
        return [score for found in batches for score in found.scored().scores.tolist()]


@pytest.fixture(params=[("cpu", Spoilt), ("cpu", SpoiltOnDevice), ("cuda", Spoilt), ("cuda", SpoiltOnDevice)])
def device(request: pytest.FixtureRequest) -> Device:
    return Device(*request.param)


def test_batch_by_batch(device: Device) -> None:
    detector = device.kind(Scored)
    assert device.all_scores(detector, 10, 4) == list(range(10))
    assert detector.sizes == [4, 4, 2]


def test_heat_maps_stay_on_the_device_where_the_detector_leaves_them(device: Device) -> None:
    detector = device.kind(Scored)
    stays = device == Device("cuda", SpoiltOnDevice)
    assert isinstance(detector, OnDevice) == (device.kind is SpoiltOnDevice)
    for found in score_all(detector, Some(5), 4, device.name):
        assert isinstance(found.heatmaps, Tensor if stays else np.ndarray)
        expected = np.array([np.full((2, 2), position, np.float32) for position in found.positions])
        assert np.array_equal(np.asarray(found.heatmaps), expected)
        scored = found.scored()
        assert scored.scores.dtype == np.float64
        assert scored.heatmaps is not None
        assert scored.heatmaps.dtype == np.float32
        assert np.array_equal(scored.heatmaps, expected)


def test_without_heat_maps(device: Device) -> None:
    for found in score_all(device.kind(lambda scores, _: Scored(scores, None)), Some(5), 4, device.name):
        assert found.heatmaps is None
        assert found.scored().heatmaps is None
        assert found.scored().scores.tolist() == list(found.positions)


def test_pixels_come_with_their_scores_and_are_read_once(device: Device) -> None:
    images, read = Some(10), list[int]()

    def batch(indices: Sequence[int]) -> Images:
        read.extend(indices)
        return Some.batch(images, indices)

    images.batch = batch  # type: ignore[method-assign]
    for found in score_all(device.kind(Scored), images, 4, device.name):
        assert found.pixels[:, 0, 0, 0].tolist() == list(found.positions) == found.scored().scores.tolist()
    assert read == list(range(10))


def test_a_batch_that_does_not_fit_is_halved_and_stays_halved(device: Device) -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if len(scores) > 3:
            raise MemoryError("no more")
        return Scored(scores, maps)

    detector = device.kind(spoil)
    assert device.all_scores(detector, 10, 8) == list(range(10))
    assert detector.sizes == [8, 4, 2, 2, 2, 2, 2]


def test_an_image_that_never_fits_is_named(device: Device) -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if 5 in scores:
            raise MemoryError("no more")
        return Scored(scores, maps)

    with pytest.raises(MemoryError, match="image 'i5' alone does not fit: no more"):
        device.all_scores(device.kind(spoil), 10, 8)


@pytest.mark.parametrize("alone", [1, 4])
def test_a_lost_gpu_is_no_fault_of_an_image(alone: int, device: Device) -> None:
    """Whether it is lost in the batch or, after another error, while the images are scored one by one."""

    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if len(scores) > alone:
            raise ZeroDivisionError("by zero")
        raise RuntimeError("CUDA error: device-side assert triggered")

    detector = device.kind(spoil)
    with pytest.raises(RuntimeError, match=r"^CUDA error: device-side assert triggered$"):
        device.all_scores(detector, 10, 4)
    assert detector.sizes == ([4, 1] if alone == 1 else [4])


def nan(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
    scores[scores == 6] = np.nan
    return Scored(scores, maps)


def infinite(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
    maps[scores == 6] = np.inf
    return Scored(scores, maps)


def raises(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
    if 6 in scores:
        raise ZeroDivisionError("by zero")
    return Scored(scores, maps)


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (nan, BadScores, "image 'i6': (1 of 1 scores are|its score or heat map is) not finite"),
        (infinite, BadScores, "image 'i6': (a heat map holds values that are|its score or heat map is) not finite"),
        (raises, ModelError, "image 'i6': ZeroDivisionError: by zero"),
    ],
)
def test_the_image_that_breaks_a_model_is_named(
    device: Device, spoil: Callable[..., Scored], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        device.all_scores(device.kind(spoil), 10, 4)


@pytest.mark.parametrize("spoil", [nan, infinite])
def test_a_fault_on_the_device_is_found_when_its_batch_is_asked_for(spoil: Spoil) -> None:
    first, second, _ = score_all(SpoiltOnDevice(spoil), Some(10), 4, "cuda")
    assert first.scored().scores.tolist() == [0, 1, 2, 3]
    with pytest.raises(BadScores, match="image 'i6'"):
        second.scored()


def test_a_fault_of_the_whole_batch_is_told_as_it_is(device: Device) -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        return Scored(scores[:1], maps[:1])

    with pytest.raises(BadScores, match=r"scores of shape \(1,\) for 4 images"):
        device.all_scores(device.kind(spoil), 10, 4)


@pytest.mark.parametrize("shape", [(4, 1), (3,), ()])
def test_scores_of_a_wrong_shape(device: Device, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadScores, match="scores of shape"):
        device.all_scores(device.kind(lambda scores, maps: Scored(np.zeros(shape), maps)), 4, 4)


def test_heat_maps_of_a_wrong_shape(device: Device) -> None:
    with pytest.raises(BadScores, match="heat maps of shape"):
        device.all_scores(device.kind(lambda scores, maps: Scored(scores, maps[:, np.newaxis])), 4, 4)


def counting(count: int, taken: list[int]) -> Iterator[int]:
    for number in range(count):
        taken.append(number)
        yield number


@pytest.mark.parametrize("in_advance", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_ahead_keeps_the_order(count: int, in_advance: int) -> None:
    taken = list[int]()
    for expected, found in enumerate(ahead(counting(count, taken), in_advance)):
        assert found == expected
        assert len(taken) <= found + 1 + in_advance
    assert taken == list(range(count))


def test_ahead_works_while_an_item_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for found in ahead(items(), 2):
        assert all(event.wait(10) for event in made[: found + 3])


def test_ahead_yields_none_and_false_too() -> None:
    assert list(ahead([None, False, 0])) == [None, False, 0]


@pytest.mark.parametrize("at", [0, 1, 5])
def test_ahead_passes_an_exception_on_in_its_turn(at: int) -> None:
    def items() -> Iterator[int]:
        yield from range(at)
        raise ZeroDivisionError("by zero")

    found, before = list[int](), set(threading.enumerate())
    with pytest.raises(ZeroDivisionError, match="by zero"):
        found.extend(ahead(items()))
    assert found == list(range(at))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("how", ["close", "forget", "raise"])
def test_ahead_stops_with_its_consumer(how: str) -> None:
    """Its thread ends, and so does the iterator it took from."""
    closed, before = threading.Event(), set(threading.enumerate())

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    def use(found: Iterator[int]) -> None:
        assert next(found) == 0
        assert len(set(threading.enumerate()) - before) == 1
        if how == "close":
            found.close()  # type: ignore[attr-defined]
        elif how == "raise":
            for _ in found:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) if how == "raise" else contextlib.nullcontext():
        use(ahead(items()))
    gc.collect()
    assert set(threading.enumerate()) <= before
    assert closed.is_set()


def test_a_pass_that_is_given_up_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    found = score_all(SpoiltOnDevice(Scored), Some(40), 4, "cuda")
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
