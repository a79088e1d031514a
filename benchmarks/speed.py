"""What scoring one image costs: anomalib's module, raybench's detector, and the exported file in its runtimes.

`python -m benchmarks.speed FOLDER [MODEL ...]` trains each model shortly on one line (layout mvtec) and prints
milliseconds of CPU per image of 256x256 pixels, one at a time, on one thread: the least of several rounds, taken in
turn. An exported file also converts pixels and resizes the heat map, which takes little at this size.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch

from benchmarks.retrained import SIDE, Folder
from raybench.detectors import onnx_file, registry
from raybench.detectors.anomalib_parts import PadimAnomalyMap, PadimModel
from raybench.detectors.onnx_graph import Source, write_onnx
from raybench.detectors.protocol import FitContext, Images
from raybench.detectors.registry import InputSize
from raybench.detectors.settings import MODELS
from raybench.detectors.torch_detector import TorchDetector, to_tensor
from raybench.errors import ModelError

TRAINED, ROUNDS, CALLS = 24, 8, 4
_FEW_STEPS = {"steps": 3}
Run = Callable[[Images], object]


def main(line: Path, *models: str) -> None:
    torch.set_num_threads(1)
    good = Folder(sorted((line / "train" / "good").iterdir())[:TRAINED])
    unseen = Folder(sorted((line / "test" / "good").iterdir())[:CALLS])
    images = unseen.batch(range(CALLS))
    print(f"{'ms of CPU per image':22}{'anomalib':>10}{'raybench':>10}{'times':>7}{'onnxruntime':>13}{'OpenVINO':>10}")
    for name in models or registry.default_names():
        detector = _trained(name, good)
        with tempfile.TemporaryDirectory() as folder:
            runs = {"anomalib": _as_anomalib(detector), "raybench": detector.score} | _exported(detector, Path(folder))
            spent = _least(runs, images)
        ratio = spent["anomalib"] / spent["raybench"]
        exported = "".join(
            f"{spent[runtime]:>{width}.1f}" if runtime in spent else f"{'–':>{width}}"
            for runtime, width in (("onnxruntime", 13), ("OpenVINO", 10))
        )
        print(f"{name:22}{spent['anomalib']:>10.1f}{spent['raybench']:>10.1f}{ratio:>7.2f}{exported}", flush=True)


def _trained(name: str, good: Folder) -> TorchDetector[object]:
    """Return a detector whose training takes little; the time of scoring does not depend on it."""
    context = FitContext(threads=1)
    trains = "steps" in MODELS[name].settings.model_fields and name != "efficient_ad"
    detector = registry.create(
        registry.resolve(name, _FEW_STEPS if trains else {}, "cpu"), InputSize(SIDE, SIDE), context
    )
    detector.fit(good, context)
    if not isinstance(detector, TorchDetector):
        raise ModelError(f"{name} is no torch detector")
    return detector


def _as_anomalib(detector: TorchDetector[object]) -> Run:
    """Return how anomalib's module scores, without what raybench arranges."""
    module = detector.module
    for part in module.modules():
        if isinstance(part, PadimModel):
            part.anomaly_map_generator = PadimAnomalyMap()

    def run(images: Images) -> object:
        with torch.inference_mode():
            return module(to_tensor(images, torch.device("cpu")))

    return run


def _exported(detector: TorchDetector[object], folder: Path) -> dict[str, Run]:
    """Return the detector as an exported file, by the name of the runtime; none if it cannot be exported."""
    file = folder / "detector.onnx"
    try:
        write_onnx(detector, Source(SIDE, SIDE, 3, None, (0, 0, SIDE, SIDE), None), None, file)
    except ModelError as error:
        print(error)
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    limits = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(file), "CPU", limits)
    return {
        "onnxruntime": lambda images: session.run(None, {onnx_file.INPUT: images}),
        "OpenVINO": lambda images: compiled(openvino.Tensor(images)),
    }


def _least(runs: Mapping[str, Run], images: Images) -> dict[str, float]:
    """Return the least CPU time per image by name, in milliseconds. Rounds of all take turns."""
    least = dict.fromkeys(runs, np.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            run(images[:1])
            started = time.process_time()
            for index in range(CALLS):
                run(images[index : index + 1])
            least[name] = min(least[name], (time.process_time() - started) / CALLS * 1e3)
    return least


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
