from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.errors import IntegrityError
from raybench.metrics.heatmap_contrast import HeatmapContrast, heatmap_quality
from raybench.metrics.masks import Mask
from tests.support.made_maps import heat_of

SIDE = 64


def contrast_of(
    image_id: str, label: str, heatmap: npt.NDArray[np.float32], typical: float, mask: npt.NDArray[np.bool_] | None
) -> HeatmapContrast:
    prepared = None if mask is None else Mask.of(mask)
    return HeatmapContrast.of(image_id, label, heat_of(heatmap, prepared, typical), prepared)


def spot(
    sigma: float = 0.0, noise: float = 0.0, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A heat map with one defect, blurred and with noise on it, and the defect's mask."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:36, 24:40] = True
    heat = mask.astype(np.float32)
    if sigma:
        heat = cv2.GaussianBlur(heat, (0, 0), sigma).astype(np.float32)
    heat += noise * np.abs(np.random.default_rng(seed).normal(size=heat.shape)).astype(np.float32)
    return heat, mask


def scene(sigma: float = 0.0, noise: float = 0.0) -> HeatmapContrast:
    """Five images with a defect and five without."""
    found = []
    for seed in range(5):
        heat, mask = spot(sigma, noise, seed)
        found.append(contrast_of(f"ng {seed}", "ng", heat, 0.0, mask))
        calm = noise * np.abs(np.random.default_rng(100 + seed).normal(size=heat.shape)).astype(np.float32)
        found.append(contrast_of(f"ok {seed}", "ok", calm, 0.0, np.zeros_like(mask)))
    return HeatmapContrast.empty().merge(*found)


def test_a_clean_map() -> None:
    found = heatmap_quality(scene())
    assert found.noise_ok.value == 0.0
    assert found.noise_around.value == 0.0
    assert found.sharpness.value == 1.0
    assert found.sharpness.n == 5


def test_by_hand() -> None:
    heat = np.full((10, 10), 1.0, np.float32)
    heat[0, 0], heat[5, 5] = 3.0, 9.0
    mask = np.zeros((10, 10), bool)
    mask[5, 5] = True
    one = contrast_of("a", "ng", heat, 1.0, mask)
    assert (one.peaks[0], one.inside[0], one.outside[0]) == (8.0, 8.0, pytest.approx(2 / 99))
    assert one.sharp[0] == 1.0  # the spot at the corner is not near
    found = heatmap_quality(one.merge(contrast_of("b", "ok", np.full((10, 10), 3.0, np.float32), 1.0, None)))
    assert found.noise_ok.value == 0.25
    assert found.noise_around.value == pytest.approx(2 / 99 / 8)


@pytest.mark.parametrize(("name", "worse"), [("noise_around", 1), ("noise_ok", 1), ("sharpness", -1)])
def test_noise_and_blur_show(name: str, worse: int) -> None:
    grades = [heatmap_quality(scene(2 * step, 0.1 * step)) for step in range(1, 4)]
    values = [worse * (getattr(grade, name).value or 0.0) for grade in grades]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_the_scale_of_the_heat_does_not_matter() -> None:
    heat, mask = spot(2.0, 0.1)
    one, other = (contrast_of("a", "ng", scale * heat, 0.0, mask) for scale in (1.0, 1000.0))
    assert heatmap_quality(one).noise_around.value == pytest.approx(heatmap_quality(other).noise_around.value, rel=1e-5)


def test_a_defect_that_does_not_glow_is_all_noise() -> None:
    heat, mask = spot()
    found = heatmap_quality(contrast_of("a", "ng", 1 - heat, 0.0, mask))
    assert found.noise_around.value == 1.0
    assert found.sharpness.value == 0.0


def of_peaks(ok: npt.NDArray[np.float64], ng: npt.NDArray[np.float64]) -> HeatmapContrast:
    """Images without masks whose heat maps have these peaks."""
    peaks = np.concatenate([ok, ng])
    ids = np.array([f"{at:04}" for at in range(len(peaks))])
    labels = np.array(["ok"] * len(ok) + ["ng"] * len(ng))
    unknown = np.full(len(peaks), np.nan)
    return HeatmapContrast(ids, labels, peaks, unknown, unknown, unknown)


def test_the_interval_of_noise_on_ok_images_covers_the_truth() -> None:
    """The median of the NG images is no constant: with few of them it is what is known least."""
    rng, repeats, hits = np.random.default_rng(0), 150, 0
    spread = 0.4
    peaks = np.exp(rng.normal(0, spread, 200_000))
    truth = np.minimum(peaks / np.exp(0.5), 1).mean()
    for seed in range(repeats):
        ok, ng = np.exp(rng.normal(0, spread, 40)), np.exp(rng.normal(0.5, spread, 8))
        found = heatmap_quality(of_peaks(ok, ng), seed=seed).noise_ok
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    assert hits / repeats >= 0.90


def test_ng_images_are_resampled_too() -> None:
    rng = np.random.default_rng(0)
    ok = np.full(400, 1.0)
    few, many = (heatmap_quality(of_peaks(ok, np.exp(rng.normal(0.7, 0.4, count)))).noise_ok for count in (10, 400))
    widths = [(number.high or 0) - (number.low or 0) for number in (few, many)]
    assert widths[0] > 2 * widths[1] > 0


def test_images_of_one_part_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    contrast = of_peaks(np.repeat(rng.gamma(4, 1, 8), 5), 12 + np.repeat(rng.gamma(4, 1, 8), 5))
    groups = {name: f"part {int(name) // 5}" for name in contrast.image_ids.tolist()}
    apart, together = (heatmap_quality(contrast, of).noise_ok for of in (None, groups))
    assert apart.value == together.value
    assert (together.high or 0) - (together.low or 0) > 1.5 * ((apart.high or 0) - (apart.low or 0))


def test_undefined_numbers_say_why() -> None:
    assert heatmap_quality(HeatmapContrast.empty()).noise_ok.reason == "no heat maps"
    heat, _ = spot()
    only_ok = heatmap_quality(contrast_of("a", "ok", heat, 0.0, None))
    assert only_ok.noise_ok.reason == "no NG images with a heat map"
    assert only_ok.sharpness.reason == "no masks of defects"


@given(order=st.permutations(range(10)), cut=st.integers(0, 10))
def test_merging_is_idempotent_and_free_of_order(order: list[int], cut: int) -> None:
    parts = [contrast_of(f"{at}", "ng", *_args(at)) for at in range(10)]
    expected = HeatmapContrast.empty().merge(*parts).to_bytes()
    left = HeatmapContrast.empty().merge(*(parts[at] for at in order[:cut]))
    right = HeatmapContrast.empty().merge(*(parts[at] for at in order[cut:]), *(parts[at] for at in order[:cut]))
    assert right.merge(HeatmapContrast.from_bytes(left.to_bytes())).to_bytes() == expected


def _args(seed: int) -> tuple[npt.NDArray[np.float32], float, npt.NDArray[np.bool_]]:
    heat, mask = spot(1.0, 0.2, seed)
    return heat, 0.1, mask


def test_an_image_has_one_heat_map() -> None:
    heat, mask = spot()
    with pytest.raises(IntegrityError, match="two different heat maps"):
        contrast_of("a", "ng", heat, 0.0, mask).merge(contrast_of("a", "ng", 2 * heat, 0.0, mask))
