"""Records that a run stores for each unit: one per phase, written once, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raybench.data.geometry import Input
from raybench.detectors.protocol import Provenance, TrainSteps
from raybench.metrics.numbers import Quality, RegionRecall, Speed, Threshold

Phase = Literal["train", "score", "measure", "aggregate", "inspect", "robustness", "fit"]


@dataclass(frozen=True)
class ModelSize:
    """The size of a trained detector."""

    disk_mb: float
    """Size of the saved detector with everything needed to score, in 10^6 bytes."""
    parameters: int
    """Number of parameters."""
    memory_bank: int = 0
    """Rows of the memory bank; 0 for models without one."""


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images that a unit is judged by."""

    ok: int
    """Number of counted OK images."""
    ng: int
    """Number of counted NG images."""
    masks: int
    """Number of scored images that have a mask."""
    chosen: int
    """Number of labelled images that metrics do not count because somebody chose them; see `metrics.sampling`."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt of a unit."""

    phase: Phase
    error_type: str
    message: str
    traceback: str
    attempt: int


@dataclass(frozen=True)
class ResourceUsage:
    """Resources that one phase of a unit used in its tasks, up to their commits; starting a worker is not included."""

    seconds: float
    """Wall time, summed over tasks."""
    images: int
    """Number of images processed."""
    cpu_s: float
    """Wall time of each task times its CPUs, summed."""
    gpu_s: float
    """Wall time of each task times its share of a GPU, summed."""
    device: str
    """Torch name."""
    peak_memory_mb: float | None = None
    """Peak GPU memory, in 10^6 bytes; None if unknown."""
    device_memory_mb: float | None = None
    """Memory of the GPU, in 10^6 bytes; None if unknown."""

    def plus(self, other: ResourceUsage) -> ResourceUsage:
        """Add up two usages. The memory of the smaller GPU counts."""
        peaks = [peak for peak in (self.peak_memory_mb, other.peak_memory_mb) if peak is not None]
        sizes = [size for size in (self.device_memory_mb, other.device_memory_mb) if size is not None]
        return ResourceUsage(
            self.seconds + other.seconds,
            self.images + other.images,
            self.cpu_s + other.cpu_s,
            self.gpu_s + other.gpu_s,
            self.device,
            max(peaks, default=None),
            min(sizes, default=None),
        )

    def shared(self, parts: int) -> ResourceUsage:
        """Return an equal part of the time, of so many."""
        return replace(self, seconds=self.seconds / parts, cpu_s=self.cpu_s / parts, gpu_s=self.gpu_s / parts)


@dataclass(frozen=True)
class Blob:
    """An object in the store, with the size and digest that a commit recorded."""

    key: str
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""
    offset: int | None = None
    """Where it begins in an object that holds several, in bytes; None if it is a whole object."""


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """A fitted detector, without thresholds."""

    detector_id: str
    """Identity of the detector: `Unit.detector_id`, or `Unit.fit_id` of one for several lines."""
    model: Mapping[str, Blob]
    """Files of the saved detector by name."""
    provenance: Provenance
    backbone: str
    weights_note: str
    parameters: int
    """Number of parameters."""
    memory_bank: int
    """Rows of the memory bank; 0 for models without one."""
    train_ok: int
    """Number of OK images trained on."""
    train_s: float
    """Wall time of `fit`, in seconds."""
    device: str
    """Torch name."""
    versions: Mapping[str, str]
    """Versions of the packages that trained it."""
    spent: ResourceUsage
    """Resources used for training. Of a detector for several lines, each line has an equal share of what fitting used,
    and what its own thresholds used."""
    details: Mapping[str, Any] = field(default_factory=dict)
    not_exportable: str = ""
    """Why the model cannot be exported; empty if it can."""
    steps: TrainSteps | None = None
    """Optimiser steps. None for a model without an optimiser."""
    together: tuple[str, ...] = ()
    """Lines whose images it was trained on together. Empty if it was trained on one."""


@dataclass(frozen=True, kw_only=True)
class TrainRecord(FitRecord):
    """A trained detector with the thresholds of a line."""

    threshold: Threshold
    """Threshold of image scores."""
    pixel_threshold: Threshold
    """Threshold of heat-map values; an image exceeds it if any of its values does."""
    heat_low: float | None
    """Median heat-map value of held-back OK images, the low end of the colour scale."""
    heat_high: float | None
    """Highest heat-map value of held-back OK images, the high end of the colour scale."""
    held_out_ok: int
    """Number of the line's OK images held back for the thresholds."""
    held_out: Blob
    """Scores of the held-back images."""


@dataclass(frozen=True)
class ScoredShard:
    """The scores and heat maps of a shard, whatever its labels."""

    detector_id: str
    """Identity of the detector that scored it."""
    rows: int
    """Number of scored images."""
    scores: Blob
    """The scores shard."""
    traits: Blob
    """Image descriptors, see `metrics.descriptors`."""
    small_maps: Blob | None
    """Heat maps drawn small, see `metrics.small_maps`. None if the detector has none to compare with OK images."""
    spent: ResourceUsage
    """Resources used for scoring."""


@dataclass(frozen=True)
class PerturbedScores:
    """Scores of perturbed copies of some test images."""

    detector_id: str
    """Identity of the detector that scored them."""
    perturbation: str
    """Name of the perturbation, see `data.perturbations`."""
    image_ids: tuple[str, ...]
    """IDs of the images."""
    scores: tuple[float, ...]
    """Raw score of each image."""
    spent: ResourceUsage
    """Resources used for scoring."""


@dataclass(frozen=True)
class ScoreRecord:
    """One scored shard, judged by its labels and masks."""

    unit_id: str
    image_shard: str
    """Key of the image shard."""
    rows: int
    """Number of scored images."""
    masks: int
    """Number of images among them that have a mask."""
    shard: Blob
    """The scores shard."""
    images: Blob
    """Image scores and labels."""
    pixels: Blob
    """Mergeable sketch of the pixel metrics."""
    regions: Blob
    """Scores of the masks' regions."""
    contrast: Blob
    """Contrast of the heat maps, see `metrics.heatmap_contrast`."""
    traits: Blob
    """Image descriptors, see `metrics.descriptors`."""
    small_maps: Blob | None
    """Heat maps drawn small; see `ScoredShard`."""
    spent: ResourceUsage
    """Resources used for scoring."""


@dataclass(frozen=True)
class MeasureRecord:
    """Speed and size of a trained detector."""

    detector_id: str
    """Identity of the detector, `Unit.detector_id`."""
    speed: Speed
    size: ModelSize
    spent: ResourceUsage
    """Resources used for timing."""


@dataclass(frozen=True)
class QualityRecord:
    """The merged shards of a unit."""

    unit_id: str
    quality: Quality
    regions: RegionRecall
    images: Blob
    """Image scores of all shards."""
    scored: int
    """Number of scored images."""
    test: ImageCounts
    """Numbers of images that the quality is about."""
    versions: Mapping[str, str]
    """Versions of the packages that judged it."""
    spent: ResourceUsage | None
    """Resources used for scoring all shards; None on a line without images to score."""


@dataclass(frozen=True)
class UnitResult:
    """A finished unit: the records that it is made of."""

    unit_id: str
    """Identity of the unit."""
    line: str
    model: str
    seed: int
    input: Input
    """Size of the network's input and how images are resized for it."""
    trained: TrainRecord
    measured: MeasureRecord
    judged: QualityRecord

    @property
    def spent(self) -> dict[Phase, ResourceUsage]:
        """Resources used for `train`, `score` and `measure`, by the tasks that committed."""
        spent: dict[Phase, ResourceUsage | None] = {
            "train": self.trained.spent,
            "score": self.judged.spent,
            "measure": self.measured.spent,
        }
        return {phase: usage for phase, usage in spent.items() if usage}


@dataclass(frozen=True)
class FailedUnit:
    """A unit that could not be finished."""

    unit_id: str
    """Identity of the unit."""
    line: str
    model: str
    seed: int
    failure: Failure
    """The latest failed attempt."""
