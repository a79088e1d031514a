"""A line's detector as a file for production: ONNX and OpenVINO, checked against the original detector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.analysis.select import select_unit
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.geometry import to_network
from raybench.detectors import onnx_file
from raybench.detectors.protocol import Detector, Scored
from raybench.errors import InputError, ModelError
from raybench.runs.records import TrainRecord
from raybench.runs.run import RunStore
from raybench.runs.thresholds import read_threshold
from raybench.worker.context import WorkerContext, cached_detector, fit_of

TOLERANCE = 1e-3
"""Largest relative difference of scores; of a heat map, relative to its highest value."""
CHECKED_IMAGES = 8


@dataclass(frozen=True)
class Exported:
    """An exported detector."""

    line: str
    model: str
    files: tuple[Path, ...]
    difference: float
    """Largest relative difference to the detector's scores and heat maps."""
    images: int
    """Number of the line's images that were compared."""


def export(plan: Plan, line: str, model: str | None, folder: Path, cache_dir: Path) -> Exported:
    """Write `<line>-<model>.onnx`, its `.json` and, if the package is installed, OpenVINO's `.xml` and `.bin`.

    Args:
        plan: The experiment.
        line: Product line.
        model: A label of the experiment. None: the model that the verdict names.
        folder: Where the files are written.
        cache_dir: Cache of the node.

    Raises:
        InputError: There is no such line or model, no verdict names one, or it is not trained.
        ModelError: The model cannot be exported, or the file scores differently.
    """
    run = RunStore.of(plan)
    unit = select_unit(plan, line, model)
    trained = run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise InputError(f"{unit} is not trained yet; run the experiment first")
    threshold = read_threshold(run, unit.unit_id, trained, plan.experiment.threshold.source)
    trained = replace(trained, threshold=threshold)
    site = WorkerContext(run, plan.lines_of(line), cache_dir, "cpu", 1)
    detector = cached_detector(unit, trained, site)
    folder.mkdir(parents=True, exist_ok=True)
    onnx = folder / f"{line}-{unit.model}.onnx"
    try:
        onnx_file.write_onnx(detector, trained.threshold.value, onnx)
    except ModelError as error:
        raise ModelError(f"{unit}: {error}") from error
    images = _images(plan, unit)
    files, scorers = [onnx], [onnx_file.onnx_scorer(onnx)]
    if onnx_file.has_openvino():
        openvino = onnx.with_suffix(".xml")
        onnx_file.write_openvino(onnx, openvino)
        files += [openvino, onnx.with_suffix(".bin")]
        scorers.append(onnx_file.openvino_scorer(openvino))
    difference = max(_difference(detector, scorer(images), images) for scorer in scorers)
    if difference > TOLERANCE:
        raise ModelError(f"{unit}: the exported file scores otherwise, by {difference:.2g} of its value")
    about = onnx.with_suffix(".json")
    about.write_text(json.dumps(_about(unit, trained, difference, len(images)), indent=2) + "\n", encoding="utf-8")
    return Exported(line, unit.model, (*files, about), difference, len(images))


def _images(plan: Plan, unit: Unit) -> npt.NDArray[np.uint8]:
    """Some of the line's images at the network's size, (N, H, W, 3) uint8."""
    samples = islice(plan.line(unit.line).images(), CHECKED_IMAGES)
    return np.stack([to_network(sample.pixels, fit_of(unit)) for sample in samples])


def _difference(detector: Detector, found: Scored, images: npt.NDArray[np.uint8]) -> float:
    expected = detector.score(images)
    gaps = [_relative(found.scores, expected.scores, np.abs(expected.scores))]
    if expected.heatmaps is not None and found.heatmaps is not None:
        peak = np.abs(expected.heatmaps).max(axis=(1, 2), keepdims=True)
        gaps.append(_relative(found.heatmaps, expected.heatmaps, peak))
    return max(gaps)


def _relative(
    found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating], scale: npt.NDArray[np.floating]
) -> float:
    return float((np.abs(found - expected) / np.maximum(scale, np.finfo(np.float32).tiny)).max())


def _about(unit: Unit, trained: TrainRecord, difference: float, images: int) -> dict[str, object]:
    outputs: Sequence[str] = onnx_file.OUTPUTS
    return {
        "line": unit.line,
        "model": unit.model,
        "detector": unit.detector,
        "unit_id": unit.unit_id,
        "input": {"name": onnx_file.INPUT, "shape": [1, unit.input.height, unit.input.width, 3], "dtype": "uint8 RGB"},
        "fit": asdict(unit.input),
        "outputs": list(outputs),
        "threshold": asdict(trained.threshold),
        "weights": trained.weights_note,
        "checked": {"images": images, "largest_relative_difference": difference},
    }
