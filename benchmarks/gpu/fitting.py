"""Detectors for the parts that need no store: created, fitted on generated images, and timed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.pictures import Pictures
from raybench.detectors import registry
from raybench.detectors.protocol import FitContext, ModelSpec

SIDE = 256
_THREADS = min(8, max(1, (os.cpu_count() or 1) // 2))  # half of a small machine: others may be at work on it


@dataclass(frozen=True)
class Fitted:
    """A fitted detector."""

    detector: Any
    """A `TorchDetector`."""
    spec: ModelSpec
    """Its model and settings."""
    size: registry.InputSize
    """Its input size."""
    seconds: float
    """Wall time of `fit`."""


def fit(name: str, device: str, budget_s: float | None, preset: str = "cpu", images: int = 48) -> Fitted:
    """Fit a model with default settings on generated OK images of 256×256."""
    spec, size = registry.resolve(name, {}, preset), registry.InputSize(SIDE, SIDE)
    context = FitContext(0, device, _THREADS, budget_s)
    pictures = Pictures(images, SIDE)
    detector = registry.create(spec, size, context)
    started = time.perf_counter()
    detector.fit(pictures, context)
    synchronize(device)
    return Fitted(detector, spec, size, time.perf_counter() - started)


def synchronize(device: str) -> None:
    """Wait until all work queued on the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
