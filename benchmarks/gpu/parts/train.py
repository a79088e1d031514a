"""Training with the settings of the papers for some seconds each, and the speed of the network alone."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import versions
from benchmarks.gpu.busy import BusyMeter
from benchmarks.gpu.fitting import SIDE, Fitted, fit, synchronize
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.session import MODELS, Finding, Session
from raybench.detectors.torch_detector import to_tensor

_IMAGES, _QUICK_IMAGES = 128, 16
_CHUNKS = (1, 8, 64)
_ROUNDS_S = 0.5
_PROFILED = 8
_LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def run(session: Session) -> None:
    """Train ten models, one after the other. Each has passed when nothing failed."""
    unseen = Pictures(max(_CHUNKS), SIDE, 1, spots=True)
    session.check("train", session.chosen(MODELS), lambda name: _train(name, session, unseen))


def _train(name: str, session: Session, unseen: Pictures) -> Finding:
    device = session.device
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    preset, images = ("cpu", _QUICK_IMAGES) if session.quick else ("paper", _IMAGES)
    with BusyMeter() as busy:
        fitted = fit(name, device, session.seconds, preset, images)
    steps = _steps(fitted)
    peak_mb = round(torch.cuda.max_memory_reserved() / 1e6) if device == "cuda" else None
    training = {
        "fit_s": round(fitted.seconds, 2),
        "steps": steps,
        "steps_s": round(sum(steps.values()) / fitted.seconds, 1),
        "busy": busy.percent,
        "peak_mb": peak_mb,
        "loss": [fitted.detector.details.get(key) for key in ("loss_first", "loss_last")],
    }
    speeds = _speeds(fitted.detector, unseen, device, quick=session.quick)
    return Finding(True, {**training, "images_s": speeds, "kernels": _kernels(fitted.detector, unseen, device)})


def _steps(fitted: Fitted) -> dict[str, int]:
    """Return the optimiser steps of each phase of training."""
    details = fitted.detector.details
    return {key: value for key, value in details.items() if key.endswith("steps") and isinstance(value, int)}


def _speeds(detector: Any, unseen: Pictures, device: str, *, quick: bool) -> dict[str, int]:
    """Return images scored per second, by images in one forward pass."""
    speeds = {}
    for images in _CHUNKS[:1] if quick else _CHUNKS:
        versions.set_chunk(detector, images)
        pixels = unseen.pixels[:images]
        detector.score(pixels)
        synchronize(device)
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < _ROUNDS_S:
            detector.score(pixels)
            rounds += 1
        synchronize(device)
        speeds[str(images)] = round(rounds * images / (time.perf_counter() - started))
    return speeds


def _kernels(detector: Any, unseen: Pictures, device: str) -> dict[str, Any]:
    """Return the kernels of one forward pass: their milliseconds, launches, and copies between host and device."""
    images = to_tensor(unseen.pixels[:_PROFILED], detector.device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with torch.inference_mode(), profile(activities=activities) as profiler:
        detector.module(images)
        synchronize(device)
    events = profiler.key_averages()
    return {
        "ms": round(sum(event.self_device_time_total for event in events) / 1e3, 2),
        "launches": sum(event.count for event in events if event.key in _LAUNCHES),
        "copies": sum(event.count for event in events if "Memcpy HtoD" in event.key or "Memcpy DtoH" in event.key),
    }
