"""What one unit hands back: numbers with their conditions, or a failure, in one schema.

Undefined numbers are `None` with a reason; NaN and infinity never leave a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["train", "score", "measure", "aggregate", "inspect"]
Provenance = Literal["imagenet", "official", "distilled", "random", "none"]


@dataclass(frozen=True)
class Number:
    """A number with its 95 % interval and the count it rests on, or the reason why it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Threshold:
    """The image-score threshold, from held-back OK images only.

    value: flag an image when `score > value`; None without OK images. n: held-back OK images. budget: false-alarm rate
    asked for. promised: the mean rate that `value` keeps to, above the budget when `n` is too small for it.
    typical: their median score; how far it lies below `value` is the unit in which scores of models are compared.
    """

    value: float | None
    n: int
    budget: float
    promised: float
    typical: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """Inference time with the device to itself, and its conditions.

    p50_ms, p95_ms: model only, batch 1. prepare_ms: decoding and input fit, median. end_to_end_ms: all together, batch
    1, median. images_per_s: model only, at `batch`, the fastest of those tried. out_of_memory_at: the batch that did
    not fit the device. peak_memory_mb: of the device (10^6 bytes), where it says. other_load: share of the machine's
    cores that other programs took meanwhile; should be near 0.
    """

    p50_ms: float
    p95_ms: float
    prepare_ms: float
    end_to_end_ms: float
    images_per_s: float
    batch: int
    device: str
    dtype: str
    threads: int
    out_of_memory_at: int | None = None
    peak_memory_mb: float | None = None
    other_load: float = 0.0


@dataclass(frozen=True)
class Size:
    """disk_mb: the saved detector, everything needed to score included (10^6 bytes). parameters: count.
    memory_bank: rows of a patch memory, 0 for models without one."""

    disk_mb: float
    parameters: int
    memory_bank: int = 0


@dataclass(frozen=True)
class Input:
    """How source images reach the network: fit mode, network H and W, median source H and W (pixels). tile: side of
    the square tiles that the network sees one by one; 0: it sees the whole."""

    mode: str
    height: int
    width: int
    source_height: int
    source_width: int
    tile: int = 0


@dataclass(frozen=True)
class Counts:
    train_ok: int
    held_out_ok: int
    test_ok: int
    test_ng: int
    masks: int


@dataclass(frozen=True)
class Quality:
    """Quality on the test split. Image numbers need OK and NG images, pixel numbers need masks.

    au_pro, au_pro_05: up to a false-positive rate of 0.3 and of 0.05. ..._f1_max: the F1 score of the best threshold.
    noise_ok, noise_around, sharpness: how clean the heat maps are; see `metrics.heatmap_contrast`.
    """

    image_auroc: Number
    image_ap: Number
    image_f1_max: Number
    recall: Number
    false_alarm_rate: Number
    pixel_auroc: Number
    pixel_ap: Number
    pixel_f1_max: Number
    au_pro: Number
    au_pro_05: Number
    aupimo: Number
    noise_ok: Number
    noise_around: Number
    sharpness: Number


@dataclass(frozen=True)
class RegionRecall:
    """Share of the masks' regions that the thresholded heat map touches: all, by defect type, by size."""

    all: Number
    by_type: Mapping[str, Number]
    by_size: Mapping[str, Number]


@dataclass(frozen=True)
class Failure:
    phase: Phase
    error_type: str
    message: str
    traceback: str
    attempt: int


@dataclass(frozen=True)
class Spent:
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

    def plus(self, other: Spent) -> Spent:
        """Both together. Of unequal GPUs the smallest counts."""
        peaks = [peak for peak in (self.peak_memory_mb, other.peak_memory_mb) if peak is not None]
        sizes = [size for size in (self.device_memory_mb, other.device_memory_mb) if size is not None]
        return Spent(
            self.seconds + other.seconds,
            self.images + other.images,
            self.cpu_s + other.cpu_s,
            self.gpu_s + other.gpu_s,
            self.device,
            max(peaks, default=None),
            min(sizes, default=None),
        )


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
    size: Size | None = None
    train_s: float | None = None
    not_exportable: str = ""
    failure: Failure | None = None
    spent: Mapping[Phase, Spent] = field(default_factory=dict)
