"""GPU memory that a process takes besides torch's tensors, and the precision of float32."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

from benchmarks.gpu import versions
from benchmarks.gpu.busy import used_mb
from benchmarks.gpu.session import Finding, Session
from raybench.detectors import anomalib_parts  # noqa: F401  (a missing package ends the run here, in the first part)
from raybench.scheduler.gpu_share import CONTEXT_MB

PACKAGES = ("torch", "torchvision", "numpy", "anomalib", "timm", "lightning", "opencv-python-headless", "pyarrow")


def run(session: Session) -> None:
    """Note versions, and memory after the first use of each of CUDA's libraries."""
    session.check("environment", ["versions"], lambda row: Finding(None, _versions()))
    if session.device == "cuda":
        session.check("environment", ["context"], lambda row: _context())


def _versions() -> dict[str, object]:
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "cpus": os.cpu_count(), **installed, **versions.precision()}


def _context() -> Finding:
    """Use CUDA's libraries one after the other. Passes if they take at most `CONTEXT_MB`."""
    before_mb, taken_mb = used_mb(), {}
    torch.zeros(1, device="cuda")
    taken_mb["context"] = _taken_mb(before_mb)
    square = torch.rand(512, 512, device="cuda")
    torch.matmul(square, square)
    taken_mb["cublas"] = _taken_mb(before_mb)
    torch.nn.functional.conv2d(torch.rand(8, 32, 64, 64, device="cuda"), torch.rand(32, 32, 3, 3, device="cuda"))
    taken_mb["cudnn"] = _taken_mb(before_mb)
    torch.linalg.inv(torch.rand(64, 100, 100, device="cuda"))
    torch.linalg.svd(torch.rand(64, 256, device="cuda", dtype=torch.float64))
    taken_mb["cusolver"] = _taken_mb(before_mb)
    about = {"gpu": torch.cuda.get_device_name(), "cudnn_version": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
    passed = taken_mb["cusolver"] <= CONTEXT_MB
    return Finding(passed, {"taken_mb": taken_mb, "reserved_mb": CONTEXT_MB, **about})


def _taken_mb(before_mb: float) -> int:
    """Return what this process takes of the GPU besides torch's tensors, in 10^6 bytes."""
    torch.cuda.synchronize()
    return round(used_mb() - before_mb - torch.cuda.memory_reserved() / 1e6)
