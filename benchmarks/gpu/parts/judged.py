"""Heat maps judged on the device: the bytes of numpy's pixel sketch, and what an image costs."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.gpu import device_sketch
from benchmarks.gpu.fitting import synchronize
from benchmarks.gpu.session import Finding, Session
from raybench.metrics.pixel import SUMMARY_POINTS, PixelMap, PixelSketch
from raybench.metrics.sketch import Sketch, ordered_keys

LARGEST_MS = 1.5
LARGEST_RESIZE_GAP = 1e-6
_NETWORK = 256
_ROUNDS = 3


def run(session: Session) -> None:
    """Judge generated heat maps at the size of their source images."""
    side, images = (256, 4) if session.quick else (1024, 16)
    session.check("judged", [f"{side}x{side}"], lambda row: _judge(side, images, session))


def _judge(side: int, images: int, session: Session) -> Finding:
    """Passes if the sketch is the same, resizing agrees with OpenCV's, and an image takes at most `LARGEST_MS`."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(images, _NETWORK, _NETWORK)).astype(np.float32)
    small = np.stack([cv2.GaussianBlur(one, (33, 33), 4) for one in noise])
    full, device_s = _timed(small, side, session.device)
    maps = full.cpu().numpy()
    by_opencv = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in small])
    same = _same(Sketch.counting(ordered_keys(maps.reshape(-1)), (0,), 1), full)
    started = time.perf_counter()
    empty = np.zeros((side, side), bool)
    PixelSketch.empty().add([PixelMap(str(index), heatmap, empty) for index, heatmap in enumerate(maps)])
    numpy_s = time.perf_counter() - started
    resize_gap = float(np.abs(maps - by_opencv).max())
    ms = device_s / images * 1e3
    passed = same and resize_gap < LARGEST_RESIZE_GAP and (ms < LARGEST_MS or session.device == "cpu")
    figures = {"ms_per_image": round(ms, 3), "numpy_ms_per_image": round(numpy_s / images * 1e3, 2)}
    return Finding(passed, {"same": same, "resize_gap": resize_gap, **figures})


def _timed(small: Any, side: int, device: str) -> tuple[Tensor, float]:
    """Return the maps (N, side, side) on the device, and the seconds of the last of some rounds, upload included."""
    shares = torch.linspace(0.01, 0.99, SUMMARY_POINTS, dtype=torch.float64, device=device)
    for _ in range(_ROUNDS):
        synchronize(device)
        started = time.perf_counter()
        uploaded = torch.from_numpy(small).to(device)[:, None]
        full = F.interpolate(uploaded, size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        keys = device_sketch.ordered_keys(full)
        device_sketch.DeviceSketch.of(keys.flatten())
        for ascending in torch.sort(keys.flatten(1), dim=1).values:
            device_sketch.quantiles(ascending, shares)
        synchronize(device)
        seconds = time.perf_counter() - started
    return full, seconds


def _same(expected: Sketch, full: Tensor) -> bool:
    found = device_sketch.DeviceSketch.of(device_sketch.ordered_keys(full).flatten())
    pairs = ((expected.low, found.low), (expected.high, found.high), (expected.columns[:, 0], found.counts))
    return expected.shift == found.shift and all(np.array_equal(own, other.cpu().numpy()) for own, other in pairs)
