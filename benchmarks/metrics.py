"""Pixel AUROC, AP and AU-PRO beside anomalib, scikit-learn and ADEval, each in a process of its own on one core."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.masks import Mask
from raybench.metrics.numbers import Threshold
from raybench.metrics.pixel import PixelMap, PixelSketch
from raybench.metrics.ranking import paired_difference

BATCH = 16
SCENES = {"100 maps of 256x256": (100, 256), "30 maps of 1024x1024": (30, 1024)}
Values = tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """seconds: best of the rounds. extra_mb: what the peak memory of the process grew by. values: AUROC, AP, AU-PRO."""

    seconds: float
    extra_mb: float
    values: Values


@dataclass(frozen=True)
class Image:
    """heatmap: (H, W) float32. mask: (H, W) bool."""

    image_id: str
    heatmap: np.ndarray
    mask: np.ndarray


def scene(count: int, side: int) -> list[Image]:
    """Scores inside [0, 1], where every peer is right."""
    rng = np.random.default_rng(0)
    maps = []
    for number in range(count):
        heat = cv2.GaussianBlur(rng.gamma(2, 1, (side, side)), (0, 0), 3)
        mask = np.zeros((side, side), bool)
        for _ in range(number % 3):
            y, x = rng.integers(0, side - 40, 2)
            mask[y : y + rng.integers(5, 40), x : x + rng.integers(5, 40)] = True
        maps.append(Image(str(number), ((heat + mask * 0.5) / 8).clip(0, 1).astype(np.float32), mask))
    return maps


def ours(maps: Sequence[Image], threads: int = 1, *, intervals: bool = False) -> Values:
    """Masks are prepared here too, as the others label regions in the time that is measured."""
    sketch = PixelSketch.empty()
    for start in range(0, len(maps), BATCH):
        batch = [PixelMap(one.image_id, one.heatmap, Mask.of(one.mask)) for one in maps[start : start + BATCH]]
        sketch.add(batch, threads)
    found = sketch.evaluate(intervals=intervals)
    return tuple(number.value or 0.0 for number in (found.pixel_auroc, found.pixel_ap, found.au_pro))


def ours_with_intervals(maps: Sequence[Image]) -> Values:
    return ours(maps, intervals=True)


def ours_on_two_cores(maps: Sequence[Image]) -> Values:
    return ours(maps, threads=2)


def scikit_learn(maps: Sequence[Image]) -> Values:
    from sklearn.metrics import average_precision_score, roc_auc_score

    heat, mask = (np.concatenate([getattr(one, name).ravel() for one in maps]) for name in ("heatmap", "mask"))
    return roc_auc_score(mask, heat), average_precision_score(mask, heat)


def anomalib(maps: Sequence[Image]) -> Values:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.metrics.aupro import _AUPRO
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision
    torch.set_num_threads(1)
    heat, mask = (torch.from_numpy(np.stack([getattr(one, name) for one in maps])) for name in ("heatmap", "mask"))
    found = []
    for metric in (BinaryAUROC(), BinaryAveragePrecision(), _AUPRO(fpr_limit=0.3)):
        for start in range(0, len(maps), BATCH):
            metric.update(heat[start : start + BATCH], mask[start : start + BATCH].int())
        found.append(float(metric.compute()))
    return tuple(found)


def adeval(maps: Sequence[Image]) -> Values:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # ADEval 1.1 asks for NumPy 1's name
    from adeval import EvalAccumulator

    gathered = EvalAccumulator(0.0, 1.0, 0.0, 1.0)
    for one in maps:
        gathered.add_anomap(one.heatmap, one.mask.astype(np.uint8))
    pixels = gathered._pixel_acc  # its `summary` divides by zero without image scores
    return gathered._auroc(pixels), gathered._aupr(pixels), gathered._aupro()


def exact(maps: Sequence[Image]) -> Values:
    """From every pixel: AUROC and AP by scikit-learn, AU-PRO over sorted scores."""
    auroc, ap = scikit_learn(maps)
    heat = np.concatenate([one.heatmap.ravel() for one in maps])
    weights = np.concatenate([_region_weights(one.mask).ravel() for one in maps])
    order = np.argsort(-heat, kind="stable")
    last = np.append(np.flatnonzero(np.diff(heat[order])), len(heat) - 1)  # of each run of equal scores
    false = np.append(0, np.cumsum(weights[order] == 0)[last] / (weights == 0).sum())
    overlap = np.append(0, np.cumsum(weights[order])[last] / weights.sum())
    inside = false <= 0.3
    x = np.append(false[inside], 0.3)
    y = np.append(overlap[inside], np.interp(0.3, false, overlap))
    return auroc, ap, float(np.trapezoid(y, x) / 0.3)


def _region_weights(mask: np.ndarray) -> np.ndarray:
    """1 / area of its region at each anomalous pixel, 0 elsewhere."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return np.where(labels > 0, 1 / np.bincount(labels.ravel())[labels], 0)


TOOLS: Mapping[str, Callable[[Sequence[Image]], Values]] = {
    "raybench": ours,
    "  2 threads": ours_on_two_cores,
    "  with intervals": ours_with_intervals,
    "anomalib": anomalib,
    "scikit-learn": scikit_learn,
    "ADEval": adeval,
    "exact": exact,
}
ROUNDS = {"raybench": 5, "  2 threads": 5, "  with intervals": 5, "ADEval": 5}


def measured(name: str, count: int, side: int) -> Run:
    """In a process of its own: warmed up on three maps."""
    maps, work = scene(count, side), TOOLS[name]
    work(maps[:3])
    before, times = _peak_mb(), []
    for _ in range(ROUNDS.get(name, 1)):
        started = time.perf_counter()
        values = work(maps)
        times.append(time.perf_counter() - started)
    return Run(min(times), _peak_mb() - before, values)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for title, (count, side) in SCENES.items():
        print(f"{title}\n{'':<18}{'s':>8}{'ratio':>8}{'extra MB':>10}{'AUROC':>11}{'AP':>11}{'AU-PRO':>11}{'error':>9}")
        runs = {name: _alone(name, count, side) for name in TOOLS}
        truth = runs["exact"].values
        for name, run in runs.items():
            error = max(abs(value - true) for value, true in zip(run.values, truth, strict=False))
            shown = "".join(f"{value:>11.6f}" for value in run.values) + " " * 11 * (3 - len(run.values))
            ratio = run.seconds / runs["raybench"].seconds
            print(f"{name:<18}{run.seconds:>8.3f}{ratio:>8.1f}{run.extra_mb:>10.0f}{shown}{error:>9.0e}")
    _bootstrap()


def _alone(name: str, count: int, side: int) -> Run:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (name, count, side))


def _bootstrap() -> None:
    """10,000 draws on a line of 1,000 images: AUROC, AP and F1 of one model; the difference of two."""
    rng = np.random.default_rng(0)
    labels = ["ok"] * 500 + ["ng"] * 500
    ids = [f"{at:04}" for at in range(1000)]
    first, second = (
        ImageScores.of(ids, labels, (rng.normal(size=1000) + np.repeat([0, 1], 500)).tolist()) for _ in "ab"
    )
    limit = Threshold(2.0, 100, 0.05, 0.05, 0.0)
    for title, work in (
        ("intervals of image AUROC, AP and F1", lambda: image_quality(first, limit, draws=10_000)),
        ("paired difference of two models", lambda: paired_difference([first], [second], 10_000)),
    ):
        started = time.perf_counter()
        work()
        print(f"10,000 bootstrap draws on 1,000 images, {title}: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
