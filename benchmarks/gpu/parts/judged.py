"""Heat maps counted on the device: the bytes that NumPy counts on the host, and what an image costs."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu.fitting import synchronize
from benchmarks.gpu.session import Finding, Session

LARGEST_MS = 1.5
LARGEST_RESIZE_GAP = 1e-6
LARGEST_SUM_GAP = 1e-12
_NETWORK = 256
_ROUNDS = 3
_TYPICAL = 0.01


def run(session: Session) -> None:
    """Count generated heat maps at the size of their source images."""
    if importlib.util.find_spec("raybench.metrics.on_device") is None:
        session.note("judged", "all", Finding(None, {"why": "this version counts on the host only"}))
        return
    side, images = (256, 4) if session.quick else (1024, 64)
    session.check("judged", [f"{side}x{side}"], lambda row: _judge(side, images, session.device))


def _judge(side: int, images: int, device: str) -> Finding:
    """Passes if counts are the same, sums and resizing agree, and an image takes at most `LARGEST_MS` on a GPU."""
    from raybench.metrics.heat import HostCounts
    from raybench.metrics.masks import Mask
    from raybench.metrics.on_device import DeviceCounts, on, resized

    small, masks = _made(side, images)
    names, prepared = [str(index) for index in range(images)], [Mask.of(mask) for mask in masks]
    for _ in range(_ROUNDS):
        uploaded = on(small, device)
        synchronize(device)
        started = time.perf_counter()
        counts = DeviceCounts(_TYPICAL)
        full = resized(uploaded, side, side)
        counts.add(names, full, prepared)
        pixels, heats = counts.finish()
        device_ms = (time.perf_counter() - started) / images * 1e3
    maps: Any = full.cpu().numpy()
    HostCounts(_TYPICAL, threads=1).add(names[:2], maps[:2], prepared[:2])  # compiles what it counts with
    started = time.perf_counter()
    on_host = HostCounts(_TYPICAL, threads=1)
    on_host.add(names, list(maps), prepared)
    host_pixels, host_heats = on_host.finish()
    host_ms = (time.perf_counter() - started) / images * 1e3
    by_opencv = np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in small])
    pairs = list(zip(heats, host_heats, strict=True))
    same = pixels.to_bytes() == host_pixels.to_bytes() and all(
        found.peak == own.peak and np.array_equal(found.region_peaks, own.region_peaks) for found, own in pairs
    )
    sum_gap = max(
        _relative(getattr(a, name), getattr(b, name)) for a, b in pairs for name in ("total", "inside", "around")
    )
    resize_gap = float(np.abs(maps - by_opencv).max() / np.abs(by_opencv).max())
    fast = device_ms < LARGEST_MS or device == "cpu"
    figures = {"ms_per_image": round(device_ms, 3), "host_ms_per_image": round(host_ms, 2)}
    passed = same and sum_gap < LARGEST_SUM_GAP and resize_gap < LARGEST_RESIZE_GAP and fast
    return Finding(passed, {"same": same, "sum_gap": sum_gap, "resize_gap": resize_gap, **figures})


def _made(side: int, images: int) -> tuple[Any, Any]:
    """Return heat maps (N, 256, 256) float32 and masks (N, side, side) bool; every second image is OK."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(images, _NETWORK, _NETWORK)).astype(np.float32)
    small = np.stack([cv2.GaussianBlur(one, (33, 33), 4) for one in noise])
    masks = np.zeros((images, side, side), np.bool_)
    for mask in masks[1::2]:
        for top, left in rng.integers(0, side - side // 16, (2, 2)):
            mask[top : top + side // 16, left : left + side // 16] = True
    return small, masks


def _relative(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)
