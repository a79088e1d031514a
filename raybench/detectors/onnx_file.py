"""Export of a fitted detector to ONNX and OpenVINO. The graph includes normalisation and threshold."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from raybench.detectors.protocol import Detector, Images, Scored
from raybench.detectors.torch_detector import TorchDetector
from raybench.errors import InputError, ModelError

INPUT, OUTPUTS = "image", ["score", "heatmap", "is_anomalous"]
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
Scorer = Callable[[Images], Scored]


class ThresholdedModel(nn.Module):
    """The exported graph: a detector's module and its threshold.

    It maps `image`, (1, H, W, 3) uint8 RGB at the network's size, to `score`, (1,) float64, raw; `heatmap`, (1, H, W)
    float32, unless the detector has none; and `is_anomalous`, (1,) bool: score > threshold.
    """

    threshold: Tensor

    def __init__(self, module: nn.Module, threshold: float) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("threshold", torch.tensor(threshold, dtype=torch.float64))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output: Any = self.module(image.permute(0, 3, 1, 2).float() / 255)
        score = output.pred_score.reshape(-1).double()
        maps = () if output.anomaly_map is None else (output.anomaly_map.reshape(image.shape[:3]).float(),)
        return score, *maps, score > self.threshold


def write_onnx(detector: Detector, threshold: float | None, path: Path) -> None:
    """Write a detector and its threshold to an ONNX file.

    Args:
        detector: A fitted detector.
        threshold: Images with a higher score are anomalous. With None no image is.
        path: The file to write.

    Raises:
        InputError: Packages are missing.
        ModelError: The detector cannot be expressed in ONNX.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"export needs {', '.join(missing)}; install raybench[export]")
    if reason := detector.card().not_exportable:
        raise ModelError(f"it cannot be exported: {reason}")
    if not isinstance(detector, TorchDetector):
        raise ModelError("it cannot be exported: it is no torch detector of raybench's")
    limit = float("inf") if threshold is None else threshold
    example = torch.zeros((1, detector.height, detector.width, 3), dtype=torch.uint8, device=detector.device)
    model = ThresholdedModel(detector.module, limit).eval().to(detector.device)
    with torch.inference_mode():
        names = OUTPUTS if len(model(example)) == len(OUTPUTS) else [OUTPUTS[0], OUTPUTS[2]]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (example,), path, input_names=[INPUT], output_names=names, dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter's errors have no common base
        raise ModelError(f"it cannot be exported: {type(error).__name__}: {error}") from error


def onnx_scorer(path: Path) -> Scorer:
    """Return a function that scores images by the ONNX file, with onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return _scorer(lambda image: dict(zip(names, session.run(None, {INPUT: image}), strict=True)))


def has_openvino() -> bool:
    """Return whether the package openvino is installed."""
    return importlib.util.find_spec("openvino") is not None


def write_openvino(onnx: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO: `path` (.xml) and a .bin file beside it. Raises InputError without OpenVINO."""
    if not has_openvino():
        raise InputError("the package openvino is not installed; install raybench[export]")
    import openvino

    openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)


def openvino_scorer(path: Path) -> Scorer:
    """Return a function that scores images by the OpenVINO files, on the CPU in float32."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.any_name for output in compiled.outputs]
    return _scorer(lambda image: dict(zip(names, compiled(image).values(), strict=True)))


def _scorer(run: Callable[[Images], dict[str, npt.NDArray[Any]]]) -> Scorer:
    def score(images: Images) -> Scored:
        outputs = [run(image[np.newaxis]) for image in images]
        maps = [output["heatmap"] for output in outputs if "heatmap" in output]
        scores = np.concatenate([output["score"] for output in outputs]).astype(np.float64)
        return Scored(scores, np.concatenate(maps).astype(np.float32) if maps else None)

    return score
