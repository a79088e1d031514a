"""On tensors of the CPU; where there is a GPU, on it too."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raybench.metrics import on_device as on_device_module
from raybench.metrics import pixel, sketch
from raybench.metrics.heat import Heat, HostCounts
from raybench.metrics.masks import Mask
from raybench.metrics.on_device import DeviceCounts, middles_and_peaks, on, resized
from raybench.metrics.pixel import PixelSketch
from raybench.metrics.roi import Roi
from raybench.runs.scores import LEVELS, quantise, restore
from tests.support.made_maps import assert_same_heat
from tests.support.made_masks import masks

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Heat maps (B, H, W) of images of one size, and their masks."""

    image_ids: Sequence[str]
    maps: Maps
    masks: Sequence[Mask | None]


wide = st.floats(-(2.0**100), 2.0**100, width=32)
few = st.sampled_from([-1.5, -1.0, -0.0, 0.0, 2.0**-140, 1.0, 1 + 2.0**-23])
narrow = st.floats(1, 1 + 2**-14, width=32)
kinds_of_maps = st.sampled_from([wide, few, narrow, st.just(0.25), st.sampled_from([0.0, -0.0])])


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    """Up to four batches, whose images have a size of their own; masks of any kind, or none that is known."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        shape = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
        maps = draw(hnp.arrays(np.float32, shape, elements=draw(kinds_of_maps)))
        anomalous = draw(hnp.arrays(np.bool_, shape, elements=draw(st.sampled_from([st.booleans(), st.just(False)]))))
        anomalous |= draw(hnp.arrays(np.bool_, (shape[0], 1, 1), fill=st.just(False)))  # some are anomalous everywhere
        known = draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0]))
        inside = draw(hnp.arrays(np.bool_, shape, elements=draw(st.sampled_from([st.booleans(), st.just(True)]))))
        regions = draw(st.lists(st.sampled_from([None, *map(Roi.of, inside)]), min_size=shape[0], max_size=shape[0]))
        prepared = [
            Mask.of(mask, roi) if is_known else None
            for mask, roi, is_known in zip(anomalous, regions, known, strict=True)
        ]
        made.append(Batch([f"{number}-{at}" for at in range(shape[0])], maps, prepared))
    return made


def on_host(parts: Sequence[Batch], typical: float = 0.0) -> tuple[PixelSketch, list[Heat]]:
    counts = HostCounts(typical, threads=1)
    for part in parts:
        counts.add(part.image_ids, list(part.maps), part.masks)
    return counts.finish()


def on_device(parts: Sequence[Batch], typical: float = 0.0, device: str = "cpu") -> tuple[PixelSketch, list[Heat]]:
    counts = DeviceCounts(typical)
    for part in parts:
        counts.add(part.image_ids, on(part.maps, device), part.masks)
    return counts.finish()


def assert_same(parts: Sequence[Batch], typical: float = 0.0) -> None:
    (pixels, heats), (expected, expected_heats) = on_device(parts, typical), on_host(parts, typical)
    assert pixels.to_bytes() == expected.to_bytes()
    for heat, expected_heat in zip(heats, expected_heats, strict=True):
        assert_same_heat(heat, expected_heat)


@given(
    parts=batches(),
    typical=st.sampled_from([0.0, 1.0, -1.5, 0.1]),
    cap=st.sampled_from([1, 4, 32, 65_536]),
    most_px=st.sampled_from([1, 100, 2**24]),
    steps=st.sampled_from([(2**14, 2**10), (16, 4), (2, 1)]),
)
def test_counts_are_those_of_the_host(
    parts: list[Batch], typical: float, cap: int, most_px: int, steps: tuple[int, int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "CAP", cap)
        patch.setattr(on_device_module, "MOST_PX", most_px)  # in parts, although the maps are small
        patch.setattr(pixel, "STEPS", steps[0])
        patch.setattr(pixel, "LEAST_STEPS", steps[1])
        assert_same(parts, typical)


@given(
    parts=batches(), cap=st.sampled_from([4, 65_536]), order=st.randoms(use_true_random=False), cut=st.integers(0, 4)
)
def test_order_and_split_do_not_matter(parts: list[Batch], cap: int, order: random.Random, cut: int) -> None:
    shuffled = list(parts)
    order.shuffle(shuffled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sketch, "CAP", cap)
        expected, _ = on_host(parts)
        whole, _ = on_device(shuffled)
        half, _ = on_device(shuffled[:cut])
        half.merge(on_host(shuffled[cut:])[0])
    assert whole.to_bytes() == half.to_bytes() == expected.to_bytes()


def scene(count: int, height: int, width: int, seed: int = 0) -> Batch:
    """Smooth maps with noise. Every third image is without a defect, every fifth without a known mask."""
    rng = np.random.default_rng(seed)
    maps, known = [], list[Mask | None]()
    for number in range(count):
        mask = np.zeros((height, width), bool)
        for _ in range(number % 3):
            y, x = rng.integers(0, height - 8), rng.integers(0, width - 8)
            mask[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = True
        heat = cv2.GaussianBlur(rng.gamma(2, 1, (height, width)), (0, 0), 2) + mask * 0.6
        maps.append(heat.astype(np.float32))
        known.append(None if number % 5 == 4 else Mask.of(mask))
    return Batch([f"{seed}-{number}" for number in range(count)], np.stack(maps), known)


HARD = {
    "gamma": lambda maps: maps,
    "negative": lambda maps: maps - 3,
    "wide": lambda maps: np.exp(12 * maps / maps.max()),
    "narrow": lambda maps: 0.98 + 0.02 * maps / maps.max(),
    "8-bit ties": lambda maps: np.round(maps / maps.max() * 255),
    "saturated": lambda maps: np.clip(maps, 1, 2),
    "huge": lambda maps: 1e30 * maps,
}


@pytest.mark.parametrize("case", HARD)
def test_large_maps(case: str) -> None:
    """As many distinct values as buckets, and more; sizes that differ."""
    made = [scene(6, 120, 160, seed=0), scene(5, 200, 90, seed=1), scene(1, 300, 500, seed=2)]
    assert_same([Batch(each.image_ids, HARD[case](each.maps).astype(np.float32), each.masks) for each in made], 2.0)


@given(st.lists(masks(), min_size=1, max_size=3), st.integers(0, 99))
def test_masks_of_any_shape(found: list[npt.NDArray[np.bool_]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_same(
        [
            Batch([str(number)], rng.normal(size=(1, *mask.shape)).astype(np.float32), [Mask.of(mask)])
            for number, mask in enumerate(found)
        ]
    )


def test_nothing_is_known() -> None:
    for pixels, heats in (
        DeviceCounts(0.0).finish(),
        on_device([Batch(["a"], np.ones((1, 3, 3), np.float32), [None])]),
    ):
        assert pixels.to_bytes() == PixelSketch.empty().to_bytes()
        assert [heat.peak for heat in heats] in ([], [1.0])


STEPS = [(on_device_module, "_heats"), (on_device_module._Counted, "of")]
"""The steps of counting that take the memory. They are private, and run out of it on a full GPU only."""


@pytest.mark.parametrize(("owner", "name"), STEPS)
def test_maps_that_do_not_fit_together_are_counted_in_smaller_parts(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_out_of_memory(monkeypatch, owner, name, images=2)
    assert_same([scene(9, 30, 40), scene(1, 20, 20, seed=1)])


def test_a_batch_that_fails_is_counted_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = scene(6, 30, 30, seed=0), scene(6, 30, 30, seed=1)
    counts = DeviceCounts(0.0)
    counts.add(first.image_ids, torch.from_numpy(first.maps), first.masks)
    with monkeypatch.context() as patch:
        patch.setattr(on_device_module, "MOST_PX", 900)  # an image a part
        _run_out_of_memory(patch, *STEPS[1], calls=2)
        with pytest.raises(torch.OutOfMemoryError):
            counts.add(second.image_ids, torch.from_numpy(second.maps), second.masks)
    counts.add(second.image_ids, torch.from_numpy(second.maps), second.masks)
    pixels, heats = counts.finish()
    expected, expected_heats = on_host([first, second])
    assert pixels.to_bytes() == expected.to_bytes()
    for heat, expected_heat in zip(heats, expected_heats, strict=True):
        assert_same_heat(heat, expected_heat)


def _run_out_of_memory(
    patch: pytest.MonkeyPatch, owner: object, name: str, images: float = np.inf, calls: float = np.inf
) -> None:
    """Let a step of counting fail for more images than these, and after so many calls."""
    step = getattr(owner, name)
    called = itertools.count()

    def limited(flat: torch.Tensor, *others: object) -> object:
        if len(flat) > images or next(called) >= calls:
            raise torch.OutOfMemoryError
        return step(flat, *others)

    patch.setattr(owner, name, staticmethod(limited) if isinstance(owner, type) else limited)


def test_summaries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel, "SUMMARISED_IMAGES", 5)
    assert_same([scene(12, 16, 16)])


@pytest.mark.gpu
@pytest.mark.parametrize("cap", [256, 65_536])
def test_on_a_gpu(cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(sketch, "CAP", cap)
    parts = [scene(12, 200, 300, seed=0), scene(5, 90, 60, seed=1)]
    (pixels, heats), (expected, expected_heats) = on_device(parts, 1.0, "cuda"), on_host(parts, 1.0)
    assert pixels.to_bytes() == expected.to_bytes()
    for heat, expected_heat in zip(heats, expected_heats, strict=True):
        assert_same_heat(heat, expected_heat)


SIZES = [
    ((64, 64), (200, 320)), ((256, 256), (1024, 1024)), ((64, 96), (33, 50)), ((128, 256), (200, 100)),
    ((5, 7), (90, 13)), ((1, 1), (9, 9)), ((1, 8), (9, 3)), ((32, 48), (32, 48)),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_resized_as_opencv_does(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Torch computes the place of a pixel in float32, so noise moves more than a smooth map."""
    maps = np.random.default_rng(0).normal(size=(2, *before)).astype(np.float32)
    smooth = np.array([cv2.GaussianBlur(each, (0, 0), 4) for each in maps])
    rounding = float(np.finfo(np.float32).eps) * max(before)
    for some, bound in ((maps, rounding), (smooth, 1e-6)):
        found = resized(torch.from_numpy(some), *after).numpy()
        expected = [cv2.resize(each, after[::-1], interpolation=cv2.INTER_LINEAR) for each in some]
        assert found.shape == (2, *after)
        assert np.abs(found - np.array(expected)).max() <= bound * np.ptp(some) + 1e-7


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=wide | few))
def test_middles_and_peaks_are_numpys(maps: Maps) -> None:
    middles, peaks = middles_and_peaks(torch.from_numpy(maps))
    assert middles.dtype == peaks.dtype == np.float64
    assert np.array_equal(middles, np.median(maps, axis=(1, 2)))
    assert np.array_equal(peaks, maps.max(axis=(1, 2)))


def test_maps_are_taken_from_where_they_lie() -> None:
    maps = np.ones((1, 2, 3), np.float32)
    assert torch.equal(on(maps, "cpu"), torch.ones((1, 2, 3)))
    tensor = torch.ones((1, 2, 3))
    assert on(tensor, "cpu") is tensor


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=wide | few))
def test_maps_are_rounded_as_a_scores_shard_stores_them(maps: Maps) -> None:
    """Heat maps that are judged on a GPU are those that are judged again later, from the shard."""
    rounded = on_device_module.rounded(torch.from_numpy(maps), LEVELS).numpy()
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, np.stack([restore(*quantise(heatmap)) for heatmap in maps]))
