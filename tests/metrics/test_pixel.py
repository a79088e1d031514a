from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from raybench.errors import IntegrityError
from raybench.metrics import pixel as pixel_module
from raybench.metrics import sketch as sketch_module
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.pixel import PixelSketch
from tests.support.made_maps import MadeMap, sketch_of


def scene(count: int, seed: int = 0, side: int = 48) -> list[MadeMap]:
    rng = np.random.default_rng(seed)
    maps = []
    for number in range(count):
        heat = cv2.GaussianBlur(rng.gamma(2, 1, (side, side + 16)), (0, 0), 1.5)
        mask = np.zeros(heat.shape, bool)
        for _ in range(number % 3):
            y, x = rng.integers(0, side - 8, 2)
            mask[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = True
        heat = heat + mask * rng.normal(0.6, 0.4)
        maps.append(MadeMap(f"image {number}", heat.astype(np.float32), mask))
    return maps


def exact(maps: list[MadeMap], limit: float) -> tuple[float, float, float]:
    """AUROC and AP by scikit-learn; AU-PRO from every distinct score, region by region."""
    mask = np.concatenate([one.mask[one.counted] for one in maps])
    heat = np.concatenate([one.heatmap[one.counted] for one in maps])
    regions = []
    for one in maps:
        _, labels = cv2.connectedComponents((one.mask & one.counted).astype(np.uint8), connectivity=8)
        regions += [np.sort(one.heatmap[labels == label]) for label in range(1, labels.max() + 1)]
    steps = np.unique(heat)[::-1]
    normal = np.sort(heat[~mask])
    false = np.concatenate([[0], 1 - np.searchsorted(normal, steps, side="left") / len(normal)])
    overlaps = [1 - np.searchsorted(region, steps, side="left") / len(region) for region in regions]
    overlap = np.concatenate([[0], np.mean(overlaps, axis=0)])
    inside = false <= limit
    x = np.append(false[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, false, overlap))
    return roc_auc_score(mask, heat), average_precision_score(mask, heat), np.trapezoid(y, x) / limit


def exact_f1_max(maps: list[MadeMap]) -> float:
    mask = np.concatenate([one.mask[one.counted] for one in maps])
    heat = np.concatenate([one.heatmap[one.counted] for one in maps])
    precision, recall, _ = precision_recall_curve(mask, heat)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def exact_aupimo(maps: list[MadeMap]) -> float:
    """From every distinct score: recall of each anomalous image's pixels against the pooled false-positive rate on
    normal images."""
    normal = np.sort(np.concatenate([one.heatmap[one.counted] for one in maps if not one.mask.any()]))
    steps = np.unique(np.concatenate([one.heatmap[one.counted] for one in maps]))[::-1]
    false = np.append(0, 1 - np.searchsorted(normal, steps, side="left") / len(normal))
    found = []
    for one in maps:
        if one.mask.any():
            inside = np.sort(one.heatmap[one.mask & one.counted])
            recall = np.append(0, 1 - np.searchsorted(inside, steps, side="left") / len(inside))
            within = (false > 1e-5) & (false < 1e-4)
            ends = np.interp([1e-5, 1e-4], false, recall)
            x = np.log([1e-5, *false[within], 1e-4])
            found.append(np.trapezoid([ends[0], *recall[within], ends[1]], x) / np.log(10))
    return float(np.mean(found))


HARD: dict[str, Callable[[Any], Any]] = {
    "gamma": lambda heat: heat,
    "narrow": lambda heat: 0.98 + 0.02 * heat / heat.max(),
    "far away": lambda heat: 1000 + heat,
    "wide": lambda heat: np.exp(12 * heat / heat.max()),
    "one outlier": lambda heat: np.where(heat == heat.max(), 1e6, heat),
    "negative": lambda heat: heat - 3,
    "8-bit ties": lambda heat: np.round(heat / heat.max() * 255),
    "saturated": lambda heat: np.clip(heat, 0, np.quantile(heat, 0.7)),
    "all equal": lambda heat: np.full_like(heat, 0.25),
    "squeezed": lambda heat: 0.5 + 0.01 * heat / heat.max(),
    "huge": lambda heat: 1e30 * heat,
}


@pytest.mark.parametrize("case", HARD)
def test_agrees_with_an_exact_oracle(case: str) -> None:
    maps = [
        MadeMap(one.image_id, HARD[case](one.heatmap.astype(np.float64)).astype(np.float32), one.mask)
        for one in scene(30)
    ]
    sketch = PixelSketch.empty()
    for start in range(0, len(maps), 7):
        sketch.add([one.pixel_map for one in maps[start : start + 7]])
    found = sketch.evaluate()
    auroc, ap, au_pro = exact(maps, 0.3)
    strict = exact(maps, 0.05)[2]
    assert found.pixel_auroc.value == pytest.approx(auroc, abs=1e-5)
    assert found.pixel_ap.value == pytest.approx(ap, abs=1e-4)
    assert found.au_pro.value == pytest.approx(au_pro, abs=1e-5)
    assert found.au_pro_05.value == pytest.approx(strict, abs=1e-5)
    assert found.pixel_f1_max.value == pytest.approx(exact_f1_max(maps), abs=1e-5)


def in_regions(maps: list[MadeMap], seed: int = 0) -> list[MadeMap]:
    """The maps with ragged regions of interest, some of which cut defects, and one without any."""
    rng = np.random.default_rng(seed)
    cut = []
    for one in maps:
        soft = np.asarray(cv2.GaussianBlur(rng.random(one.mask.shape), (0, 0), 5), np.float64)
        inside = np.asarray(soft > 0.49, np.bool_)
        if one.mask.any() and not (inside & one.mask).any():
            inside |= one.mask
        cut.append(MadeMap(one.image_id, one.heatmap, one.mask, inside))
    return [*cut[:-1], maps[-1]]


def test_pixels_outside_the_region_of_interest_are_neither_ok_nor_defective() -> None:
    maps = in_regions(scene(30))
    found = sketch_of(maps).evaluate(intervals=False)
    auroc, ap, au_pro = exact(maps, 0.3)
    assert found.pixel_auroc.value == pytest.approx(auroc, abs=1e-5)
    assert found.pixel_ap.value == pytest.approx(ap, abs=1e-4)
    assert found.au_pro.value == pytest.approx(au_pro, abs=1e-5)
    assert found.au_pro_05.value == pytest.approx(exact(maps, 0.05)[2], abs=1e-5)
    assert found.pixel_f1_max.value == pytest.approx(exact_f1_max(maps), abs=1e-5)
    large = in_regions(scene(12, side=300))
    assert sketch_of(large).evaluate(intervals=False).aupimo.value == pytest.approx(exact_aupimo(large), abs=2e-3)


def test_a_rectangular_region_of_interest_counts_as_the_image_cut_to_it() -> None:
    """Byte for byte, summaries for intervals included; also where the region is all there is of a defect."""
    maps = scene(20)
    area = np.s_[5:40, 10:50]
    inside = np.zeros(maps[0].mask.shape, bool)
    inside[area] = True
    in_region = [MadeMap(one.image_id, one.heatmap, one.mask, inside) for one in maps]
    cut = [MadeMap(one.image_id, one.heatmap[area].copy(), one.mask[area].copy()) for one in maps]
    assert sketch_of(in_region).to_bytes() == sketch_of(cut).to_bytes()


def test_one_pixel_regions_count_as_much_as_any() -> None:
    maps = scene(12)
    for one in maps[::2]:
        one.mask[3, 5] = True
    found = sketch_of(maps).evaluate(intervals=False)
    assert found.au_pro.value == pytest.approx(exact(maps, 0.3)[2], abs=1e-5)
    assert found.pixel_f1_max.value == pytest.approx(exact_f1_max(maps), abs=1e-5)


@pytest.mark.parametrize("case", ["gamma", "narrow", "negative", "8-bit ties"])
def test_aupimo_agrees_with_an_exact_oracle(case: str) -> None:
    maps = [
        MadeMap(one.image_id, HARD[case](one.heatmap.astype(np.float64)).astype(np.float32), one.mask)
        for one in scene(60, side=80)
    ]
    found = sketch_of(maps).evaluate().aupimo
    assert found.value == pytest.approx(exact_aupimo(maps), abs=1e-4)
    assert found.n == sum(one.mask.any() for one in maps)
    assert (found.low or 0.0) <= (found.value or 0.0) <= (found.high or 0.0)


def test_aupimo_agrees_with_anomalib() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.metrics.pimo.pimo import _AUPIMO
    maps = scene(60, side=80)
    theirs: Any = _AUPIMO(num_thresholds=20_000)
    theirs.update(
        torch.tensor(np.stack([m.heatmap for m in maps])), torch.tensor(np.stack([m.mask for m in maps])).int()
    )
    found = sketch_of(maps).evaluate(intervals=False).aupimo
    assert found.value == pytest.approx(float(theirs.compute()), abs=5e-3)  # theirs looks at thresholds on a grid


def test_aupimo_needs_a_tail() -> None:
    assert "100000 pixels of OK images" in str(sketch_of(scene(9)).evaluate().aupimo.reason)


def test_threads_change_nothing() -> None:
    assert sketch_of(scene(9)).to_bytes() == sketch_of(scene(9), threads=2).to_bytes()


def test_agrees_with_the_oracle_when_buckets_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketch_module, "CAP", 8192)
    maps = scene(30)
    auroc, ap, au_pro = exact(maps, 0.3)
    found = sketch_of(maps).evaluate()
    assert found.pixel_auroc.value == pytest.approx(auroc, abs=1e-5)
    assert found.pixel_ap.value == pytest.approx(ap, abs=1e-4)
    assert found.au_pro.value == pytest.approx(au_pro, abs=1e-5)


def test_agrees_with_anomalib_inside_its_range() -> None:
    """torchmetrics passes scores above 1 through a sigmoid, so anomalib is an oracle for scores in [0, 1] only."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.metrics.aupro import _AUPRO
    maps = scene(9)
    highest = max(float(one.heatmap.max()) for one in maps)
    maps = [MadeMap(one.image_id, one.heatmap / np.float32(highest), one.mask) for one in maps]
    theirs: Any = _AUPRO(fpr_limit=0.3)
    theirs.update(
        torch.tensor(np.stack([m.heatmap for m in maps])), torch.tensor(np.stack([m.mask for m in maps])).int()
    )
    assert sketch_of(maps).evaluate().au_pro.value == pytest.approx(float(theirs.compute()), abs=1e-4)


@given(order=st.permutations(range(8)), cut=st.integers(0, 8))
@settings(max_examples=15, deadline=None)
def test_order_and_split_do_not_matter(order: list[int], cut: int) -> None:
    maps = scene(8, side=24)
    whole, first, second = (
        sketch_of(some) for some in (maps, [maps[at] for at in order[:cut]], [maps[at] for at in order[cut:]])
    )
    second.merge(PixelSketch.from_bytes(first.to_bytes()))
    assert second.to_bytes() == whole.to_bytes()


def test_interval_holds_the_number_and_shrinks_with_more_images() -> None:
    few, many = sketch_of(scene(9)), sketch_of(scene(120))
    widths = []
    for sketch in (few, many):
        number = sketch.evaluate().au_pro
        assert number.value is not None
        assert number.low is not None
        assert number.high is not None
        assert number.low <= number.value <= number.high
        widths.append(number.high - number.low)
    assert widths[1] < widths[0]
    assert many.evaluate() == many.evaluate()


def width(number: Estimate) -> float:
    assert number.low is not None
    assert number.high is not None
    return number.high - number.low


def test_aupimo_knows_that_other_ok_images_would_set_other_thresholds() -> None:
    """All anomalous images are alike, so the interval is that of the OK images."""
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 80), bool)
    mask[20:40, 20:40] = True
    inside = np.linspace(3, 6, mask.sum(), dtype=np.float32)

    def scene_of(ok: int) -> list[MadeMap]:
        heat = [rng.gamma(2, rng.uniform(0.2, 0.5), mask.shape).astype(np.float32) for _ in range(ok)]
        clean = [MadeMap(f"ok {at}", one, np.zeros_like(mask)) for at, one in enumerate(heat)]
        defect = rng.gamma(2, 0.3, mask.shape).astype(np.float32)
        defect[mask] = inside
        return clean + [MadeMap(f"ng {at}", defect, mask) for at in range(10)]

    few, many = (sketch_of(scene_of(count)).evaluate().aupimo for count in (20, 160))
    assert width(few) > 0.02
    assert width(few) > width(many)


def test_images_of_one_part_are_resampled_together() -> None:
    maps = [MadeMap(f"{one.image_id} {copy}", one.heatmap, one.mask) for one in scene(12) for copy in range(4)]
    groups = {one.image_id: one.image_id.rpartition(" ")[0] for one in maps}
    sketch = sketch_of(maps)
    apart, together = sketch.evaluate(), sketch.evaluate(groups)
    assert together.au_pro.value == apart.au_pro.value
    for name in ("pixel_auroc", "au_pro", "aupimo"):
        if getattr(apart, name).value is not None:
            assert width(getattr(together, name)) > 1.4 * width(getattr(apart, name))


def test_undefined_numbers_say_why() -> None:
    heat, none = np.ones((4, 4), np.float32), np.zeros((4, 4), bool)
    clean, only = (sketch_of([MadeMap("a", heat, mask)]) for mask in (none, ~none))
    cases = ((PixelSketch.empty(), "no masks"), (clean, "no masks of anomalous"), (only, "no normal pixels"))
    for sketch, reason in cases:
        number = sketch.evaluate().au_pro
        assert number.value is None
        assert number.reason is not None
        assert reason in number.reason


def test_summaries_are_bounded_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_module, "SUMMARISED_IMAGES", 5)
    maps = scene(12, side=16)
    forth, back = sketch_of(maps), PixelSketch.empty()
    for one in reversed(maps):
        back.add([one.pixel_map])
    assert back.to_bytes() == forth.to_bytes()
    assert forth.evaluate().pixel_auroc.n == 5


@given(cut=st.integers(0, 2000))
@settings(max_examples=20, deadline=None)
def test_damage_is_noticed(cut: int) -> None:
    data = sketch_of(scene(3, side=16)).to_bytes()
    with pytest.raises(IntegrityError):
        PixelSketch.from_bytes(data[: min(cut, len(data) - 1)])


def test_another_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not pixel sketch"):
        PixelSketch.from_bytes(ImageScores.empty().to_bytes())


def test_a_region_counts_the_same_whatever_its_size() -> None:
    heat = np.zeros((40, 40), np.float32)
    mask = np.zeros((40, 40), bool)
    mask[:30, :30] = True
    mask[38:, 38:] = True
    heat[:30, :30] = 1  # the large region is found, the small one is missed
    background: npt.NDArray[np.float32] = heat[~mask]
    assert background.max() == 0
    assert sketch_of([MadeMap("a", heat, mask)]).evaluate().au_pro.value == pytest.approx(0.5 + 0.5 * 0.3 / 2, abs=1e-6)
