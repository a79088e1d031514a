"""The one protocol every detector follows.

Images cross it as uint8 RGB arrays that already have the network's size; heat maps come back at that size.
Mapping to and from source-image geometry is `data.geometry`'s work, files and shards are `work`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from raybench.errors import BadScores

Provenance = Literal["imagenet", "official", "distilled", "random", "none"]
"""Where the weights of a backbone come from."""

CODE = "code"
"""Among a spec's weights, the sha256 of the source of a detector of the user's own; no file of the weights store."""

Images = npt.NDArray[np.uint8]
"""(B, H, W, 3) uint8 RGB."""


class TrainImages(Protocol):
    """OK images at the network's size, read on demand, so that memory does not grow with their number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Images:
        """The images at `indices`, in that order: (B, H, W, 3) uint8 RGB, writable."""
        ...


@dataclass(frozen=True)
class Scored:
    """scores: (B,) float64, raw, higher is more anomalous. heatmaps: (B, H, W) float32, raw, or None."""

    scores: npt.NDArray[np.float64]
    heatmaps: npt.NDArray[np.float32] | None


def checked(scored: Scored, count: int) -> Scored:
    """`scored` unchanged. Raises BadScores unless it holds `count` finite scores and as many heat maps, or none."""
    maps = scored.heatmaps
    if scored.scores.shape != (count,):
        raise BadScores(f"scores of shape {scored.scores.shape} for {count} images; it must be ({count},)")
    if maps is not None and (maps.ndim != 3 or len(maps) != count):
        raise BadScores(f"heat maps of shape {maps.shape} for {count} images; it must be ({count}, H, W)")
    if not np.isfinite(scored.scores).all():
        raise BadScores(f"{int((~np.isfinite(scored.scores)).sum())} of {count} scores are not finite")
    if maps is not None and not np.isfinite(maps).all():
        raise BadScores("a heat map holds values that are not finite")
    return scored


@dataclass(frozen=True)
class WeightsFile:
    """A file of the weights store, fetched to this node and verified."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class FitContext:
    """seed: all randomness of training. device: torch name ("cpu", "cuda"). threads: CPU threads to use.
    budget_s: of optimiser steps, at most; None: the model's own number of steps. weights: what the spec asks for, by
    name."""

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    budget_s: float | None = None
    weights: Mapping[str, WeightsFile] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What a fitted detector says of itself. not_exportable: why it cannot become an ONNX file; empty: it can."""

    name: str
    backbone: str
    provenance: Provenance
    weights_note: str
    parameters: int
    memory_bank: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    not_exportable: str = ""


class Detector(Protocol):
    """One anomaly detector for one product line. Built by `registry.create`, restored by `registry.load`.

    One that takes GPU memory that torch does not know of says so in an attribute `gpu_memory_mb` (10^6 bytes, the
    most it takes): how many tasks share a GPU rests on it.
    """

    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train on OK images only."""
        ...

    def score(self, images: Images) -> Scored:
        """Return raw scores and heat maps of one batch.

        Deterministic: the same call gives the same bytes. An image's result does not depend on the other images of the
        batch, on the threads or on the CPU's kernels, but for the rounding of float32: scores agree within 1e-3 of
        their value, heat maps within 1e-3 of their range. docs/fidelity.md lists what was measured for each model.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write everything scoring needs (safetensors and JSON, no pickle) into an existing empty folder."""
        ...

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""
        ...

    def card(self) -> Card: ...


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is built. config: its settings, JSON types only. weights: name → sha256 of what it loads (a
    prefix or empty where only the weights store knows the file).

    stride: the input's height and width must be multiples of it. min_side: and at least this many pixels.
    """

    name: str
    summary: str
    config: Mapping[str, Any]
    weights: Mapping[str, str]
    stride: int = 32
    min_side: int = 64
