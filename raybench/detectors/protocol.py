"""The contract of a detector: the base class, and the types that cross it.

Images arrive as uint8 RGB arrays at the network's size; heat maps are returned at that size. `data.geometry` maps both
to and from the size of the source image, and `worker` handles files and shards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from raybench.detectors.array_state import load_attributes, save_attributes
from raybench.errors import BadScores

Provenance = Literal["imagenet", "official", "own", "random", "none"]
"""The origin of a backbone's weights. "own" is a file of the user's."""

CODE = "code"
"""Key among a spec's weights for the sha256 of a plug-in's source code. The weights store has no file of this name."""

Images = npt.NDArray[np.uint8]
"""(B, H, W, 3) uint8 RGB."""

_STATE_FILE = "state.safetensors"


class TrainImages(Protocol):
    """OK images at the network's size, read on demand, so that memory does not grow with their number."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Images:
        """Return the images at `indices`, in that order: (B, H, W, 3) uint8 RGB, writable."""
        ...


@dataclass(frozen=True)
class Scored:
    """Scores and heat maps of one batch of images."""

    scores: npt.NDArray[np.float64]
    """(B,) float64, raw. A higher score is more anomalous."""
    heatmaps: npt.NDArray[np.float32] | None
    """(B, H, W) float32, raw. None if the detector has no heat maps."""

    @classmethod
    def from_maps(cls, maps: npt.NDArray[Any]) -> Scored:
        """Score each image by the maximum of its heat map.

        Args:
            maps: (B, H, W) numbers. The maximum is taken before the maps are rounded to float32.

        Raises:
            BadScores: The array has another number of dimensions, or maps without pixels.
        """
        if maps.ndim != 3 or 0 in maps.shape[1:]:
            raise BadScores(f"heat maps of shape {maps.shape}; it must be (B, H, W)")
        return cls(maps.max(axis=(1, 2)).astype(np.float64), maps.astype(np.float32))


@dataclass(frozen=True)
class DeviceScored:
    """Scores and heat maps of one batch of images, still on the device that computed them."""

    scores: Any
    """(B,) float64 tensor, as in `Scored`."""
    heatmaps: Any | None
    """(B, H, W) float32 tensor, as in `Scored`."""


@runtime_checkable
class OnDevice(Protocol):
    """A detector whose results can stay on the device: `score` returns the same numbers."""

    def upload(self, images: Images) -> Any:
        """Return images (B, H, W, 3) as a uint8 tensor on the device."""
        ...

    def score_on_device(self, images: Any) -> DeviceScored:
        """Score what `upload` returned, or a part of it. Does not wait for the device."""
        ...


def check_shapes(scored: Scored | DeviceScored, count: int) -> None:
    """Raise BadScores unless there are `count` scores and as many heat maps or none."""
    shape, maps = tuple(scored.scores.shape), scored.heatmaps
    if shape != (count,):
        raise BadScores(f"scores of shape {shape} for {count} images; it must be ({count},)")
    if maps is not None and (maps.ndim != 3 or len(maps) != count):
        raise BadScores(f"heat maps of shape {tuple(maps.shape)} for {count} images; it must be ({count}, H, W)")


def checked(scored: Scored, count: int) -> Scored:
    """Return `scored` unchanged. Raises BadScores unless it has `count` finite scores and as many heat maps or none."""
    check_shapes(scored, count)
    maps = scored.heatmaps
    if not np.isfinite(scored.scores).all():
        raise BadScores(f"{int((~np.isfinite(scored.scores)).sum())} of {count} scores are not finite")
    if maps is not None and not np.isfinite(maps).all():
        raise BadScores("a heat map holds values that are not finite")
    return scored


@dataclass(frozen=True)
class WeightsFile:
    """A file of the weights store, fetched to this node and verified."""

    path: Path
    """Where the file is on this node."""
    sha256: str
    """Digest of its bytes, in full."""


@dataclass(frozen=True)
class FitContext:
    """What training depends on besides images and settings."""

    seed: int = 0
    """Seed of all randomness in training."""
    device: str = "cpu"
    """Torch's name of the device: "cpu" or "cuda"."""
    threads: int = 1
    """CPU threads to use."""
    budget_s: float | None = None
    """Time limit of the optimiser steps, in seconds. If None, the model's own number of steps applies."""
    weights: Mapping[str, WeightsFile] = field(default_factory=dict)
    """The files that the model's spec asks for, by name."""


@dataclass(frozen=True)
class TrainSteps:
    """Optimiser steps of a training, as the model's settings count them, summed over its phases."""

    done: int
    """Steps that were taken."""
    planned: int
    """Steps that the settings ask for, at most."""
    budget_s: float | None = None
    """The time budget, in seconds, if it ended training early: on another machine it would be another number of steps.
    None if it did not."""
    enough: int = 0
    """Steps below which the model is undertrained: `Settings.ENOUGH_STEPS`. 0 if that is not known."""


@dataclass(frozen=True)
class Card:
    """Description of a fitted detector."""

    name: str
    """Name of the model."""
    backbone: str
    """Name of the backbone, or "none"."""
    provenance: Provenance
    """Origin of the backbone's weights."""
    weights_note: str
    """The same in words, for the report."""
    parameters: int
    """Number of parameters, the backbone's included."""
    memory_bank: int = 0
    """Rows of the memory bank; 0 for a model without one."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What happened in training, as JSON values."""
    not_exportable: str = ""
    """The reason why the detector cannot be exported to ONNX. Empty if it can."""
    steps: TrainSteps | None = None
    """Optimiser steps of its training. None for a model without an optimiser, and if unknown."""


class Detector(ABC):
    """One anomaly detector for one product line: the base of the built-in models and of your own.

    A subclass defines `fit` and `score`. The default `save` and `restore` keep all attributes that are NumPy arrays
    or JSON values; a subclass with other state overrides both. A class attribute `stride` (the input's sides must be
    multiples of it) or `min_side` (the least side), in pixels, restricts the size of images.

    A detector that takes GPU memory outside torch states its peak in an attribute `gpu_memory_mb` (10^6 bytes). The
    scheduler uses it to share a GPU between tasks.
    """

    scores_by_peak: bool = False
    """Whether an image's score is the highest value of its heat map. On a line with regions of interest it is then
    taken inside of the region."""

    def __init__(self, config: Mapping[str, Any], height: int, width: int, context: FitContext) -> None:
        """Create an untrained detector.

        Args:
            config: Settings of the experiment file.
            height: Height of the images, in pixels.
            width: Width of the images, in pixels.
            context: Device and threads. `fit` gets its own.
        """
        self.config = config
        self.height = height
        self.width = width
        self.context = context

    @abstractmethod
    def fit(self, images: TrainImages, context: FitContext) -> None:
        """Train on OK images only."""

    @abstractmethod
    def score(self, images: Images) -> Scored:
        """Return raw scores and heat maps of one batch.

        The result is deterministic: the same call returns the same bytes. An image's result does not depend on the
        other images of the batch, on the number of threads or on the CPU's kernels, except for float32 rounding:
        scores agree within 1e-3 of their value, heat maps within 1e-3 of their range. docs/fidelity.md lists the
        measured deviations of each model. Does not write to `images`, which are used afterwards.
        """

    def save(self, folder: Path) -> None:
        """Write everything that scoring needs into an existing empty folder, as safetensors and JSON, without pickle.

        By default, write all attributes except `context`. Raises ModelError if one is neither a NumPy array nor a JSON
        value.
        """
        save_attributes(type(self).__name__, self._attributes(), folder / _STATE_FILE)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote into a newly created detector. Raises IntegrityError for any other content."""
        for name, value in load_attributes(folder / _STATE_FILE).items():
            setattr(self, name, value)

    def card(self) -> Card:
        """Describe the fitted detector. By default, all numbers in its arrays count as parameters."""
        count = sum(value.size for value in self._attributes().values() if isinstance(value, np.ndarray))
        name, obstacle = type(self).__name__, "it has no torch module"
        return Card(name, "none", "none", "no weights", count, not_exportable=obstacle)

    def _attributes(self) -> dict[str, Any]:
        state = object.__getstate__(self)  # with __slots__ in a subclass: a pair of dictionaries
        parts = state if isinstance(state, tuple) else (state,)
        merged = {name: value for part in parts for name, value in (part or {}).items()}
        return {
            name: value for name, value in merged.items() if not (name == "context" and isinstance(value, FitContext))
        }


@dataclass(frozen=True)
class ModelSpec:
    """A model before it is built."""

    name: str
    """The name in the experiment file."""
    summary: str
    """One line for people."""
    config: Mapping[str, Any]
    """All settings, as JSON types."""
    weights: Mapping[str, str]
    """sha256 of every file it loads, by name. A prefix or empty if only the weights store knows the file."""
    stride: int = 32
    """The input's height and width must be multiples of this number of pixels."""
    min_side: int = 64
    """The least height and width, in pixels."""
