"""Exported detectors in the runtimes that run them: onnxruntime and OpenVINO. Nothing here needs torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.errors import InputError

INPUT = "image"
SCORE, HEATMAP, IS_ANOMALOUS = OUTPUTS = ("score", "heatmap", "is_anomalous")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What an exported file says of one image."""

    score: float
    heatmap: npt.NDArray[np.float32] | None
    """(H, W) float32, raw. None if the detector has no heat maps."""
    is_anomalous: bool | None
    """None without a threshold."""

    @classmethod
    def of(cls, values: dict[str, npt.NDArray[Any]]) -> Outputs:
        """Convert the outputs of a runtime, by name."""
        heatmap, decision = values.get(HEATMAP), values.get(IS_ANOMALOUS)
        return cls(
            float(values[SCORE][0]),
            None if heatmap is None else heatmap[0],
            None if decision is None else bool(decision[0]),
        )


@dataclass(frozen=True)
class Scorer:
    """An exported file, loaded by a runtime."""

    provider: str
    """What computes, as `CPUExecutionProvider`."""
    shape: tuple[int, ...]
    """(1, H, W, C), which the file takes."""
    dtype: np.dtype[Any]
    """Type of the pixels that the file takes."""
    run: Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]
    """Maps an image (1, H, W, C) to the outputs by name."""

    def score(self, image: npt.NDArray[Any]) -> Outputs:
        """Score one image (H, W, C). Raises InputError for another size or type than the file takes."""
        if (image.shape, image.dtype) != (self.shape[1:], self.dtype):
            raise InputError(
                f"the file takes images of {self.shape[1:]} {self.dtype}, not of {image.shape} {image.dtype}"
            )
        return Outputs.of(self.run(np.ascontiguousarray(image[np.newaxis])))


def onnx_scorer(path: Path, provider: str = "CPUExecutionProvider") -> Scorer:
    """Load an ONNX file with onnxruntime.

    Raises:
        InputError: The package or the provider is missing, or the file cannot be loaded.
    """
    _check_installed("onnxruntime")
    import onnxruntime

    if provider not in (known := onnxruntime.get_available_providers()):
        raise InputError(f"this onnxruntime has no {provider}; it has {', '.join(known)}")
    try:
        session = onnxruntime.InferenceSession(path, providers=[provider])
    except Exception as error:  # onnxruntime's errors have no common base
        raise InputError(f"onnxruntime cannot load {path}: {error}") from error
    if session.get_providers()[0] != provider:  # onnxruntime takes the CPU for a GPU that fails
        raise InputError(f"onnxruntime cannot use its {provider} here")
    names, (given,) = [output.name for output in session.get_outputs()], session.get_inputs()
    return Scorer(
        provider,
        tuple(given.shape),
        np.dtype(given.type.removeprefix("tensor(").removesuffix(")")),
        lambda image: dict(zip(names, session.run(None, {INPUT: image}), strict=True)),
    )


def has_openvino() -> bool:
    """Return whether the package openvino is installed."""
    return importlib.util.find_spec("openvino") is not None


def write_openvino(onnx: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO: `path` (.xml) and a .bin file beside it. Raises InputError without OpenVINO."""
    _check_installed("openvino")
    import openvino

    openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)


def openvino_scorer(path: Path) -> Scorer:
    """Load OpenVINO files, for the CPU in float32. Raises InputError without OpenVINO, or if they cannot be loaded."""
    _check_installed("openvino")
    import openvino

    try:
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot load {path}: {error}") from error
    names, given = [output.any_name for output in compiled.outputs], compiled.input(0)
    return Scorer(
        "OpenVINO CPU",
        tuple(given.shape),
        np.dtype(given.element_type.to_dtype()),
        # An array of another type would be cast without a word; a tensor is not.
        lambda image: dict(zip(names, compiled(openvino.Tensor(image)).values(), strict=True)),
    )


def _check_installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"the package {package} is not installed; install raybench[export]")
