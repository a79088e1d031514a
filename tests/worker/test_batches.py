from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from raybench.detectors.protocol import Card, Detector, FitContext, Images, Scored, TrainImages
from raybench.errors import BadScores, ModelError
from raybench.worker.batches import score_all


class Some:
    """`count` images of 2x2; each is its own number."""

    def __init__(self, count: int) -> None:
        self.image_ids = tuple(f"i{number}" for number in range(count))

    def __len__(self) -> int:
        return len(self.image_ids)

    def batch(self, indices: Sequence[int]) -> Images:
        return np.array([np.full((2, 2, 3), at, np.uint8) for at in indices])


class Spoilt(Detector):
    """Scores are the image's number, after what `spoil` does."""

    def __init__(self, spoil: Callable[[npt.NDArray[np.float64], npt.NDArray[np.float32]], Scored]) -> None:
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


def all_scores(detector: Spoilt, count: int, batch: int) -> list[float]:
    return [score for _, _, scored in score_all(detector, Some(count), batch) for score in scored.scores.tolist()]


def test_batch_by_batch() -> None:
    detector = Spoilt(Scored)
    assert all_scores(detector, 10, 4) == list(range(10))
    assert detector.sizes == [4, 4, 2]


def test_pixels_come_with_their_scores_and_are_read_once() -> None:
    images, read = Some(10), list[int]()

    def batch(indices: Sequence[int]) -> Images:
        read.extend(indices)
        return Some.batch(images, indices)

    images.batch = batch  # type: ignore[method-assign]
    for positions, pixels, scored in score_all(Spoilt(Scored), images, 4):
        assert pixels[:, 0, 0, 0].tolist() == list(positions) == scored.scores.tolist()
    assert read == list(range(10))


def test_a_batch_that_does_not_fit_is_halved_and_stays_halved() -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if len(scores) > 3:
            raise MemoryError("no more")
        return Scored(scores, maps)

    detector = Spoilt(spoil)
    assert all_scores(detector, 10, 8) == list(range(10))
    assert detector.sizes == [8, 4, 2, 2, 2, 2, 2]


def test_an_image_that_never_fits_is_named() -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if 5 in scores:
            raise MemoryError("no more")
        return Scored(scores, maps)

    with pytest.raises(MemoryError, match="image 'i5' alone does not fit: no more"):
        all_scores(Spoilt(spoil), 10, 8)


@pytest.mark.parametrize("alone", [1, 4])
def test_a_lost_gpu_is_no_fault_of_an_image(alone: int) -> None:
    """Whether it is lost in the batch or, after another error, while the images are scored one by one."""

    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        if len(scores) > alone:
            raise ZeroDivisionError("by zero")
        raise RuntimeError("CUDA error: device-side assert triggered")

    detector = Spoilt(spoil)
    with pytest.raises(RuntimeError, match=r"^CUDA error: device-side assert triggered$"):
        all_scores(detector, 10, 4)
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
        (nan, BadScores, "image 'i6': 1 of 1 scores are not finite"),
        (infinite, BadScores, "image 'i6': a heat map holds values that are not finite"),
        (raises, ModelError, "image 'i6': ZeroDivisionError: by zero"),
    ],
)
def test_the_image_that_breaks_a_model_is_named(spoil: Callable[..., Scored], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        all_scores(Spoilt(spoil), 10, 4)


def test_a_fault_of_the_whole_batch_is_told_as_it_is() -> None:
    def spoil(scores: npt.NDArray[np.float64], maps: npt.NDArray[np.float32]) -> Scored:
        return Scored(scores[:1], maps[:1])

    with pytest.raises(BadScores, match=r"scores of shape \(1,\) for 4 images"):
        all_scores(Spoilt(spoil), 10, 4)


@pytest.mark.parametrize("shape", [(4, 1), (3,), ()])
def test_scores_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadScores, match="scores of shape"):
        all_scores(Spoilt(lambda scores, maps: Scored(np.zeros(shape), maps)), 4, 4)


def test_heat_maps_of_a_wrong_shape() -> None:
    with pytest.raises(BadScores, match="heat maps of shape"):
        all_scores(Spoilt(lambda scores, maps: Scored(scores, maps[:, np.newaxis])), 4, 4)
