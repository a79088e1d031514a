"""Check an exported file on the machine that runs it, with images and results of the evaluated detector beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.data.decode import Pixels
from raybench.detectors.onnx_file import Outputs, Scorer, onnx_scorer, openvino_scorer
from raybench.errors import InputError, IntegrityError
from raybench.metrics import npz

TOLERANCE = 1e-3
"""Largest relative difference of scores; of a heat map, relative to its highest value."""
_PER_UNIT = 0.1  # weight of a difference in units of the distance from a typical OK image to the threshold
_KIND, _VERSION = "images of an exported file", 1
_MAP_SIDE = 64
_TIMED = 5  # times that each image is scored


@dataclass(frozen=True, eq=False)
class CheckImages:
    """Images of a line and what the evaluated detector says of them: `<line>-<model>.check.npz`."""

    images: npt.NDArray[np.uint8 | np.uint16]
    """(N, H, W, C), as the file takes them."""
    scores: npt.NDArray[np.float64]
    """(N,)"""
    heatmaps: npt.NDArray[np.float32]
    """(N, h, w): every `step`-th row and column. (N, 0, 0) if the detector has no heat maps."""
    step: int
    threshold: float
    """NaN without a threshold."""
    unit: float
    """Distance of the threshold from the score of a typical OK image. Infinity if it is not known."""

    @classmethod
    def of(
        cls, images: Sequence[Pixels], expected: Sequence[Outputs], threshold: float | None, unit: float
    ) -> CheckImages:
        """Collect images (H, W, C) and the results of the evaluated detector."""
        step = max(1, max(images[0].shape[:2]) // _MAP_SIDE)
        none = np.zeros((0, 0), np.float32)
        maps = [none if each.heatmap is None else each.heatmap[::step, ::step] for each in expected]
        scores = np.array([each.score for each in expected])
        return cls(np.stack(images), scores, np.stack(maps), step, np.nan if threshold is None else threshold, unit)

    @staticmethod
    def path_of(file: Path) -> Path:
        """Return where the images of an exported file are."""
        return file.with_suffix(".check.npz")

    def save(self, file: Path) -> Path:
        """Write the images beside an exported file, and return their path."""
        path = self.path_of(file)
        path.write_bytes(npz.to_bytes(_KIND, _VERSION, {name: np.asarray(value) for name, value in vars(self).items()}))
        return path

    @classmethod
    def load(cls, file: Path) -> CheckImages:
        """Read the images beside an exported file.

        Raises:
            InputError: There are none.
            IntegrityError: They are damaged.
        """
        path = cls.path_of(file)
        if not path.is_file():
            raise InputError(f"{path} does not exist; copy it here with the exported file")
        arrays: dict[str, Any] = npz.from_bytes(_KIND, _VERSION, path.read_bytes())
        try:
            found = cls(**arrays | {name: arrays[name].item() for name in ("step", "threshold", "unit")})
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path} does not hold what it should: {error!r}") from error
        count = len(found.scores)
        if not count or found.step < 1 or {len(found.images), len(found.heatmaps)} != {count}:
            raise IntegrityError(f"{path} does not hold what it should: images, scores and heat maps do not agree")
        return found


@dataclass(frozen=True)
class ExportCheck:
    """How an exported file scores on this machine."""

    file: Path
    provider: str
    """What computes, as `CPUExecutionProvider`."""
    images: int
    difference: float
    """Largest relative difference to the evaluated detector's scores and heat maps."""
    decisions: int
    """Images that are decided otherwise, although their scores are not as close to the threshold as differences may
    be."""
    milliseconds: float
    """Median time per image, one at a time."""

    @property
    def passed(self) -> bool:
        """Whether the file scores and decides as the evaluated detector."""
        return self.difference <= TOLERANCE and self.decisions == 0


def check_export(file: str | Path, provider: str = "CPUExecutionProvider") -> ExportCheck:
    """Score the images beside an exported file with it, and compare the results with the evaluated detector's.

    Args:
        file: An exported `.onnx`, or OpenVINO's `.xml`.
        provider: Execution provider of onnxruntime, for an `.onnx`.

    Raises:
        InputError: The file, its images, the runtime or the provider is missing.
        IntegrityError: The file's images are damaged.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    stored = CheckImages.load(file)
    scorer = openvino_scorer(file) if file.suffix == ".xml" else onnx_scorer(file, provider)
    gaps, decisions = [], 0
    for image, score, heatmap in zip(stored.images, stored.scores.tolist(), stored.heatmaps, strict=True):
        found = scorer.score(image)
        part = None if found.heatmap is None else found.heatmap[:: stored.step, :: stored.step]
        expected = Outputs(score, heatmap if heatmap.size else None, None)
        gaps.append(largest_difference(Outputs(found.score, part, None), expected, stored.unit))
        is_clear = abs(score - stored.threshold) > TOLERANCE * abs(score)  # False without a threshold
        decisions += is_clear and found.is_anomalous != (score > stored.threshold)
    times = _milliseconds(scorer, stored.images)
    return ExportCheck(file, scorer.provider, len(gaps), float(np.max(gaps)), decisions, times)


def largest_difference(found: Outputs, expected: Outputs, unit: float = np.inf) -> float:
    """Return the largest relative difference of score and heat map. NaN or infinity where `found` is not finite.

    Scores may all lie close to the threshold, relative to their size. So a tenth of their difference in units of
    `unit`, the distance of the threshold from a typical OK image, counts as well.
    """
    gap = abs(found.score - expected.score)
    gaps = [gap / _above_zero(abs(expected.score)), _PER_UNIT * gap / unit]
    if (found.heatmap is None) != (expected.heatmap is None):
        return float("inf")
    if found.heatmap is not None and expected.heatmap is not None:
        if found.heatmap.shape != expected.heatmap.shape:
            return float("inf")
        peak = float(np.abs(expected.heatmap).max())
        gaps.append(float(np.abs(found.heatmap - expected.heatmap).max()) / _above_zero(peak))
    return float(np.max(gaps))


def _above_zero(value: float) -> float:
    return max(value, float(np.finfo(np.float32).tiny))


def _milliseconds(scorer: Scorer, images: npt.NDArray[np.uint8 | np.uint16]) -> float:
    """Return the median time of an image after the first, which `check_export` has scored."""
    times = []
    for image in [*images] * _TIMED:
        started = time.perf_counter()
        scorer.score(image)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
