"""Each detector fitted once for all tests, on a few small images."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from raybench.detectors import registry
from raybench.detectors.protocol import Detector, FitContext, ModelSpec, Scored, WeightsFile
from raybench.detectors.registry import InputSize
from raybench.detectors.weights.catalog import TRANSFORMERS
from tests.support.dinov2 import random_file

REAL = registry.names()
CONFIG: dict[str, dict[str, float]] = {
    "padim": {"n_features": 16},
    "patchcore": {"pool_rows": 600, "coreset_ratio": 0.2},
    "dfm": {},
    "stfpm": {"steps": 3, "batch": 2},
    "reverse_distillation": {"steps": 3, "batch": 2},
    "efficient_ad": {"autoencoder_steps": 1, "steps": 1},
    "fastflow": {"steps": 3, "batch": 2, "flow_steps": 2},
    "cflow": {"steps": 2, "batch": 2, "fibers": 64, "coupling_blocks": 2},
    "supersimplenet": {"steps": 3, "batch": 2},
    "draem": {"steps": 2, "batch": 2, "width": 8},
    "anomaly_dino": {"pool_rows": 150, "bank_rows": 100},
    "dinomaly": {"steps": 2, "batch": 2},
    "inp_former": {"steps": 2, "batch": 2},
    "fake": {},
}
SIZE = {"efficient_ad": (256, 256), "supersimplenet": (128, 160)} | dict.fromkeys(
    ("anomaly_dino", "dinomaly", "inp_former"), (56, 84)
)
COUNT = {"efficient_ad": 4}
"""Images to fit on; 8 if not named. EfficientAD takes no smaller ones than these, and seconds for a few."""
CONTEXT = FitContext(seed=3, device="cpu", threads=1)


def context_of(spec: ModelSpec, **changes: Any) -> FitContext:
    """Return CONTEXT with random weights for the files of a spec that are not installed."""
    held: dict[str, WeightsFile] = {name: random_file(name) for name in spec.weights if name in TRANSFORMERS}
    return replace(CONTEXT, weights=held, **changes)


class Images:
    """OK images in memory: a soft pattern with noise, (n, h, w, 3) uint8."""

    def __init__(self, count: int, height: int, width: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        wave = 120 + 60 * np.sin(np.arange(width) / 9)[None, :, None] * np.cos(np.arange(height) / 7)[:, None, None]
        noise = rng.normal(0, 6, (count, height, width, 3))
        self.pixels: npt.NDArray[np.uint8] = np.clip(wave + noise, 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
        return self.pixels[list(indices)].copy()


@dataclass(frozen=True)
class Fitted:
    """A fitted detector and images it has not seen."""

    name: str
    spec: ModelSpec
    detector: Detector
    height: int
    width: int
    unseen: npt.NDArray[np.uint8]

    @functools.cached_property
    def scored(self) -> Scored:
        """What the detector says of the images it has not seen."""
        return self.detector.score(self.unseen)


@contextlib.contextmanager
def few_rows() -> Iterator[None]:
    """Solve EfficientAD's last layer for a tenth of the patches, of few images; all of them take many seconds."""
    from raybench.detectors import efficient_ad, pdn  # not everybody who makes images needs anomalib

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdn, "ROWS", 400)
        patch.setattr(efficient_ad, "NOT_OK_IMAGES", 4)
        yield


@functools.cache
def fitted_once(name: str) -> Fitted:
    """Return the detector that the tests of this process share, fitted where no address is found and none is reached.

    They only score with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", _refused)
        patch.setattr(socket, "getaddrinfo", lambda host, *rest: _refused(None, host))
        found = fit(name)
        assert np.isfinite(found.scored.scores).all()
    return found


def _refused(self: object, address: object) -> None:
    raise AssertionError(f"tried to reach {address}")


@few_rows()
def fit(name: str, seed: int = 3) -> Fitted:
    spec = registry.resolve(name, CONFIG[name], "cpu")
    height, width = SIZE.get(name, (64, 96))
    context = context_of(spec, seed=seed)
    detector = registry.create(spec, InputSize(height, width), context)
    detector.fit(Images(COUNT.get(name, 8), height, width), context)
    return Fitted(name, spec, detector, height, width, Images(3, height, width, seed=1).pixels)


BOUND = 1e-3
"""What `Detector.score` promises: see its docstring, and docs/fidelity.md for how far each model moves."""


def maps_of(scored: Scored) -> npt.NDArray[np.float32]:
    assert scored.heatmaps is not None
    return scored.heatmaps


def deviations(found: Scored, expected: Scored) -> tuple[float, float]:
    """The largest deviation of a heat map, as a share of its range, and of a score, as a share of the score.

    A map without a range (dfm's, on images of one patch) is compared with its largest value.
    """
    maps, there = maps_of(found), maps_of(expected)
    most = np.abs(there).max((1, 2))
    span = np.ptp(there, axis=(1, 2))
    moved = np.abs(maps - there).max((1, 2)) / np.where(span > 1e-4 * most, span, most)
    return float(moved.max()), float((np.abs(found.scores - expected.scores) / np.abs(expected.scores)).max())


def assert_same(found: Scored, expected: Scored) -> None:
    """Equal within the bounds of `Detector.score`."""
    map_moved, score_moved = deviations(found, expected)
    assert map_moved <= BOUND
    assert score_moved <= BOUND
