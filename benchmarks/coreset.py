"""PatchCore's coreset: real patch features of one line on one core, ours beside anomalib's k-center greedy."""

from __future__ import annotations

import csv
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raybench.cli.demo import Sizes, write_lines
from raybench.detectors.patchcore import Patchcore, embed, k_center
from raybench.detectors.protocol import FitContext
from raybench.detectors.settings import PatchcoreSettings
from raybench.detectors.torch_detector import to_tensor

RATIO, SIDE, LINE = 0.05, 256, "solar-mono"
SIZES = Sizes(64, 48, 48, 0)


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = write_lines(Path(folder), SIZES)[LINE]
        train = _images(images, "train", "ok")
        ok, ng = _images(images, "test", "ok"), _images(images, "test", "ng")
    context = FitContext()
    detector = Patchcore(PatchcoreSettings(pool_rows=100, bank_rows=10), SIDE, SIDE, context)
    detector.fit(_Few(train[:2]), context)
    module: Any = detector.module
    with torch.inference_mode():
        rows = torch.cat([embed(module.model, module.normalise(one)).flatten(0, 1) for one in _batches(train)])
        count = round(len(rows) * RATIO)
        print(f"{len(rows)} patches of {rows.shape[1]} features, {count} to choose")
        found = {name: _timed(choose, rows, count) for name, choose in (("raybench", _ours), ("anomalib", _theirs))}
        print(f"{'':10}{'s':>8}{'ratio':>7}{'cover radius':>14}{'image AUROC':>13}")
        for name, (seconds, chosen) in found.items():
            ratio = seconds / found["raybench"][0]
            radius, auroc = _radius(rows, rows[chosen]), _auroc(module, rows[chosen], ok, ng)
            print(f"{name:10}{seconds:8.1f}{ratio:7.1f}{radius:14.3f}{auroc:13.4f}")


def _ours(rows: Tensor, count: int) -> Tensor:
    return k_center(rows, count, 0)


def _theirs(rows: Tensor, count: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.models.components import KCenterGreedy
    return torch.as_tensor(KCenterGreedy(rows, count / len(rows)).select_coreset_idxs())


def _timed(choose: Callable[[Tensor, int], Tensor], rows: Tensor, count: int) -> tuple[float, Tensor]:
    started = time.perf_counter()
    chosen = choose(rows, count)
    return time.perf_counter() - started, chosen


def _radius(rows: Tensor, bank: Tensor) -> float:
    """How far the patch is that lies farthest from the bank."""
    return float(torch.cat([torch.cdist(part, bank).amin(1) for part in torch.split(rows, 4096)]).max())


def _auroc(module: Any, bank: Tensor, *labelled: np.ndarray) -> float:
    module.model.memory_bank = bank
    scores = [float(score) for images in labelled for one in _batches(images) for score in module(one).pred_score]
    labels = [at for at, images in enumerate(labelled) for _ in images]
    return float(roc_auc_score(labels, scores))


class _Few:
    def __init__(self, images: np.ndarray) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Any) -> np.ndarray:
        return self._images[list(indices)].copy()


def _batches(images: np.ndarray) -> list[Tensor]:
    return [to_tensor(images[at : at + 4].copy(), torch.device("cpu")) for at in range(0, len(images), 4)]


def _images(folder: Path, split: str, label: str) -> np.ndarray:
    """(N, SIDE, SIDE, 3) uint8 RGB, as the line's images.csv lists them."""
    with (folder / "images.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file) if (row["split"], row["label"]) == (split, label)]
    found = [cv2.imread(str(folder / path), cv2.IMREAD_COLOR_RGB) for path in paths]
    return np.stack([cv2.resize(image, (SIDE, SIDE)) for image in found if image is not None])
