"""Pixel AUROC, AP and AU-PRO of 100 maps of 256x256 on one core, beside anomalib, scikit-learn and ADEval."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from raybench.metrics.pixel import PixelMap, PixelSketch

MAPS, SIDE, BATCH = 100, 256, 16


def scene() -> list[PixelMap]:
    """Scores inside [0, 1], where every peer is right."""
    rng = np.random.default_rng(0)
    maps = []
    for number in range(MAPS):
        heat = cv2.GaussianBlur(rng.gamma(2, 1, (SIDE, SIDE)), (0, 0), 3)
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(number % 3):
            y, x = rng.integers(0, SIDE - 40, 2)
            mask[y : y + rng.integers(5, 40), x : x + rng.integers(5, 40)] = True
        maps.append(PixelMap(str(number), ((heat + mask * 0.5) / 8).clip(0, 1).astype(np.float32), mask))
    return maps


def ours(maps: Sequence[PixelMap]) -> tuple[float, ...]:
    sketch = PixelSketch.empty()
    for start in range(0, len(maps), BATCH):
        sketch.add(maps[start : start + BATCH])
    found = sketch.evaluate()
    return tuple(number.value or 0.0 for number in (found.pixel_auroc, found.pixel_ap, found.au_pro))


def scikit_learn(maps: Sequence[PixelMap]) -> tuple[float, ...]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    heat, mask = (np.concatenate([getattr(one, name).ravel() for one in maps]) for name in ("heatmap", "mask"))
    return roc_auc_score(mask, heat), average_precision_score(mask, heat)


def anomalib(maps: Sequence[PixelMap]) -> tuple[float, ...]:
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


def adeval(maps: Sequence[PixelMap]) -> tuple[float, ...]:
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # ADEval 1.1 asks for NumPy 1's name
    from adeval import EvalAccumulator

    gathered = EvalAccumulator(0.0, 1.0, 0.0, 1.0)
    for one in maps:
        gathered.add_anomap(one.heatmap, one.mask.astype(np.uint8))
    pixels = gathered._pixel_acc  # its `summary` divides by zero without image scores
    return gathered._auroc(pixels), gathered._aupr(pixels), gathered._aupro()


def timed(work: Callable[[Sequence[PixelMap]], tuple[float, ...]], maps: Sequence[PixelMap]) -> tuple[float, Any]:
    work(maps[:3])
    started = time.perf_counter()
    values = work(maps)
    return time.perf_counter() - started, values


def main() -> None:
    maps = scene()
    base, mine = timed(ours, maps)
    print(f"{'':<14}{'s':>8}{'ratio':>8}{'AUROC':>11}{'AP':>11}{'AU-PRO':>11}   (ours: with intervals)")
    for name, work in (("raybench", ours), ("anomalib", anomalib), ("scikit-learn", scikit_learn), ("ADEval", adeval)):
        try:
            seconds, values = (base, mine) if work is ours else timed(work, maps)
        except ImportError as error:
            print(f"{name:<14}not installed: {error}")
            continue
        shown = "".join(f"{value:>11.6f}" for value in values)
        print(f"{name:<14}{seconds:>8.2f}{seconds / base:>8.1f}{shown}")


if __name__ == "__main__":
    main()
