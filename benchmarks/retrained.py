"""Trained twice: our detectors beside anomalib's own classes and Engine, on the same backbone, images and steps.

`python -m benchmarks.retrained FOLDER [MODEL ...]` trains on one line (layout mvtec) and prints the image AUROC of
both. Only models whose class in anomalib takes our backbone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from raybench.detectors import registry
from raybench.detectors.protocol import FitContext
from raybench.detectors.registry import InputSize
from raybench.detectors.weights.catalog import BACKBONES, LITE0

SIDE = 256
LITE = BACKBONES[LITE0]
# Ours and its settings; anomalib's class, its settings, and why scores may differ.
PAIRS: Sequence[tuple[str, Mapping[str, Any], str, Mapping[str, Any], str]] = (
    ("padim", {"n_features": 64}, "Padim", {"init": {"n_features": 64}}, ""),
    ("patchcore", {"coreset_ratio": 0.01}, "Patchcore",
     {"init": {"coreset_sampling_ratio": 0.01, "layers": LITE.names(8, 16)}}, ""),
    ("dfm", {}, "Dfm", {}, ""),
    ("stfpm", {"steps": 400, "batch": 8}, "Stfpm", {"steps": 400, "batch": 8}, ""),
    ("cflow", {"steps": 40, "batch": 4, "lr": 1e-3, "fibers": 64}, "Cflow",
     {"steps": 3360, "batch": 4, "init": {"lr": 1e-3, "fiber_batch_size": 64, "layers": LITE.names(8, 16, 32)}},
     "theirs is relative to each batch"),
    ("supersimplenet", {"steps": 120, "batch": 4}, "Supersimplenet",
     {"steps": 120, "batch": 4, "init": {"layers": LITE.names(8, 16)}}, "ours standardises its features"),
)  # fmt: skip


class Folder:
    """Images read from their files, squashed to SIDE x SIDE."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        """(len(indices), SIDE, SIDE, 3) uint8 RGB."""
        return np.stack([_read(self._paths[at]) for at in indices])


def main(line: Path, *models: str) -> None:
    train = Folder(sorted((line / "train" / "good").iterdir()))
    good = sorted((line / "test" / "good").iterdir())
    bad = sorted(path for path in (line / "test").glob("*/*") if path.parent.name != "good")
    test, labels = Folder([*good, *bad]), [0] * len(good) + [1] * len(bad)
    print(f"{line.name}, {len(train)} training images, {len(good)} OK and {len(bad)} NG test images, {SIDE}x{SIDE} px")
    print(f"{'':16}{'raybench':>10}{'s':>6}{'anomalib':>10}{'s':>6}{'difference':>12}")
    for ours, chosen, theirs, arguments, remark in (pair for pair in PAIRS if not models or pair[0] in models):
        (a, a_s), (b, b_s) = (
            _auroc(name, config, train, test, labels)
            for name, config in ((ours, chosen), (f"anomalib:{theirs}", arguments))
        )
        print(f"{ours:16}{a:10.4f}{a_s:6.0f}{b:10.4f}{b_s:6.0f}{a - b:+12.4f}  {remark}", flush=True)


def _auroc(
    name: str, config: Mapping[str, Any], train: Folder, test: Folder, labels: Sequence[int]
) -> tuple[float, float]:
    """Image AUROC on the test images, and the seconds of training."""
    context = FitContext(threads=2)
    detector = registry.create(registry.resolve(name, config), InputSize(SIDE, SIDE), context)
    started = time.perf_counter()
    detector.fit(train, context)
    seconds = time.perf_counter() - started
    # One by one: some of anomalib's scores depend on the other images of the batch.
    scores = [float(detector.score(test.batch([at])).scores[0]) for at in range(len(test))]
    return float(roc_auc_score(labels, scores)), seconds


def _read(path: Path) -> npt.NDArray[np.uint8]:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise SystemExit(f"{path} is no image")
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    main(Path(sys.argv[1]), *sys.argv[2:])
