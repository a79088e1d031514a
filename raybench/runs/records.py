"""What a run keeps of each unit: a record per phase, written once, and the result that they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raybench.data.geometry import Input
from raybench.detectors.protocol import Provenance
from raybench.metrics.numbers import Quality, RegionRecall, Speed, Threshold

Phase = Literal["train", "score", "measure", "aggregate", "inspect"]


@dataclass(frozen=True)
class ModelSize:
    """disk_mb: the saved detector, everything needed to score included (10^6 bytes). parameters: count.
    memory_bank: rows of a patch memory, 0 for models without one."""

    disk_mb: float
    parameters: int
    memory_bank: int = 0


@dataclass(frozen=True)
class Counts:
    train_ok: int
    held_out_ok: int
    test_ok: int
    test_ng: int
    masks: int


@dataclass(frozen=True)
class Failure:
    phase: Phase
    error_type: str
    message: str
    traceback: str
    attempt: int


@dataclass(frozen=True)
class ResourceUsage:
    """What one phase of a unit took inside its tasks, up to their commits; the start of a worker is not in it.

    seconds: wall time, summed over tasks. images: looked at. cpu_s, gpu_s: seconds times the CPUs, and times the share
    of a GPU, that each task had. device: torch name. peak_memory_mb: GPU memory held at most (10^6 bytes).
    device_memory_mb: that the GPU has. Both None where nobody says.
    """

    seconds: float
    images: int
    cpu_s: float
    gpu_s: float
    device: str
    peak_memory_mb: float | None = None
    device_memory_mb: float | None = None

    def plus(self, other: ResourceUsage) -> ResourceUsage:
        """Both together. Of unequal GPUs the smallest counts."""
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


@dataclass(frozen=True)
class Blob:
    """Bytes in the store that a commit vouches for. size: bytes. sha256: hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TrainRecord:
    """A trained detector. model: its files by name. threshold, pixel_threshold: of image scores and of heat-map values
    (an image has any above it). heat_low, heat_high: heat-map values of held-back OK images
    (median, highest), the anchor of the colour scale. train_s: wall time of `fit`. held_out: the scores of those
    images; None in runs of an older raybench."""

    unit_id: str
    model: Mapping[str, Blob]
    threshold: Threshold
    pixel_threshold: Threshold
    provenance: Provenance
    backbone: str
    weights_note: str
    parameters: int
    memory_bank: int
    heat_low: float | None
    heat_high: float | None
    train_ok: int
    held_out_ok: int
    train_s: float
    device: str
    details: Mapping[str, Any] = field(default_factory=dict)
    not_exportable: str = ""
    held_out: Blob | None = None
    spent: ResourceUsage | None = None


@dataclass(frozen=True)
class ScoreRecord:
    """One shard scored. shard: the scores shard. images: image scores and labels. pixels: the mergeable sketch of
    the pixel metrics. regions: those of the masks. glow: how clean the heat maps are. masks: images among `rows` that
    have one. traits: what is hot in the images; None in runs of an older raybench."""

    unit_id: str
    image_shard: str
    rows: int
    masks: int
    shard: Blob
    images: Blob
    pixels: Blob
    regions: Blob
    glow: Blob
    traits: Blob | None = None
    spent: ResourceUsage | None = None


@dataclass(frozen=True)
class MeasureRecord:
    unit_id: str
    speed: Speed
    size: ModelSize
    spent: ResourceUsage | None = None


@dataclass(frozen=True)
class QualityRecord:
    """All shards of a unit merged. images: all its image scores. scored: their number. masks: those with one.
    spent: on scoring, all shards together."""

    unit_id: str
    quality: Quality
    regions: RegionRecall
    images: Blob
    scored: int
    masks: int
    spent: ResourceUsage | None = None


@dataclass(frozen=True)
class UnitResult:
    """One row of the comparison. A failed unit has `failure` and no numbers. pixel_threshold: of heat-map values, so
    that no more OK images than the budget have one above it. spent: on `train`, `score` and `measure`, by the tasks
    that committed."""

    unit_id: str
    line: str
    model: str
    seed: int
    provenance: Provenance | None = None
    weights_note: str = ""
    input: Input | None = None
    counts: Counts | None = None
    threshold: Threshold | None = None
    pixel_threshold: Threshold | None = None
    quality: Quality | None = None
    regions: RegionRecall | None = None
    speed: Speed | None = None
    size: ModelSize | None = None
    train_s: float | None = None
    not_exportable: str = ""
    failure: Failure | None = None
    spent: Mapping[Phase, ResourceUsage] = field(default_factory=dict)
