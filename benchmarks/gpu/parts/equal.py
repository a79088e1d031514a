"""One saved detector on the CPU and on the GPU: the same scores and heat maps, whatever the batch."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.gpu.fitting import SIDE, fit, synchronize
from benchmarks.gpu.pictures import Pictures
from benchmarks.gpu.session import MODELS, Finding, Session
from raybench.detectors import registry
from raybench.detectors.protocol import Scored

LARGEST_GAP, LEAST_RANK_CORRELATION = 1e-4, 0.999
LARGEST_BATCH_GAP = 1e-5
_IMAGES = 24
_FIT_S = 1.0


def run(session: Session) -> None:
    """Compare ten models."""
    unseen = Pictures(_IMAGES, SIDE, 1, spots=True)
    session.check("equal", session.chosen(MODELS), lambda name: _compare(name, session.device, unseen))


def _compare(name: str, device: str, unseen: Pictures) -> Finding:
    """Fit on the CPU and score on both. TF32 is noted as shipped, and where it is forced off and on."""
    images = unseen.pixels
    fitted = fit(name, "cpu", _FIT_S)
    expected = fitted.detector.score(images)
    with tempfile.TemporaryDirectory() as folder:
        registry.save_detector(fitted.detector, fitted.spec, fitted.size, Path(folder))
        started = time.perf_counter()
        loaded: Any = registry.load(Path(folder), device, 1)
        synchronize(device)
        load_s = time.perf_counter() - started
    tensors = [*loaded.module.named_parameters(), *loaded.module.named_buffers()]
    stray = [key for key, tensor in tensors if tensor.device.type != device]
    shipped = loaded.score(images)
    values = _gaps(shipped, expected)
    again = loaded.score(images)
    same = bool((again.scores == shipped.scores).all()) and bool((again.heatmaps == shipped.heatmaps).all())
    batch_gaps = {size: _batch_gap(loaded, images, size, shipped) for size in (1, 3)}
    passed = (
        max(values["score_gap"], values["map_gap"]) < LARGEST_GAP
        and values["rank"] > LEAST_RANK_CORRELATION
        and max(batch_gaps.values()) < LARGEST_BATCH_GAP
        and same
        and not stray
    )
    forced = {f"tf32_{'on' if on else 'off'}": _forced(loaded, images, expected, on=on) for on in (False, True)}
    more = {"again": same, "batch_gaps": batch_gaps, "stray": stray, "load_s": round(load_s, 2), **forced}
    return Finding(passed, {**values, **more})


def _gaps(found: Scored, expected: Scored) -> dict[str, float]:
    """Return the largest relative gap of scores, that of heat maps by their peak, and Spearman's rank correlation."""
    scores = np.abs(found.scores - expected.scores) / np.maximum(np.abs(expected.scores), 1e-12)
    assert found.heatmaps is not None
    assert expected.heatmaps is not None
    maps = np.abs(found.heatmaps - expected.heatmaps).max((1, 2)) / np.abs(expected.heatmaps).max((1, 2))
    rank = spearmanr(found.scores, expected.scores).statistic
    return {"score_gap": float(scores.max()), "map_gap": float(maps.max()), "rank": float(rank)}


def _batch_gap(detector: Any, images: Any, size: int, whole: Scored) -> float:
    """Return the largest relative gap between scores in batches of `size` and those of all images at once."""
    parts = [detector.score(images[start : start + size]).scores for start in range(0, len(images), size)]
    return float(np.abs(np.concatenate(parts) / whole.scores - 1).max())


def _forced(detector: Any, images: Any, expected: Scored, *, on: bool) -> dict[str, float]:
    """Return the gaps with TF32 of convolutions forced on or off; a detector may set it itself while it scores."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = on
    try:
        return _gaps(detector.score(images), expected)
    finally:
        torch.backends.cudnn.allow_tf32 = before
