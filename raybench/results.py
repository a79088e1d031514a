"""What one unit hands back: numbers with their conditions, or a failure, in one schema.

Undefined numbers are `None` with a reason; NaN and infinity never leave a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["train", "score", "measure", "aggregate"]
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

    value: flag an image when `score > value`; None when `n` is too small for the budget.
    n: held-back OK images. budget: false-alarm rate asked for. promised: the mean rate that `value` keeps to.
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

    p50_ms, p95_ms: model only, batch 1. end_to_end_ms: decode and input fit included, batch 1, median.
    images_per_s: model only, at `batch`. other_load: share of the machine's cores that other programs took
    meanwhile; should be near 0.
    """

    p50_ms: float
    p95_ms: float
    end_to_end_ms: float
    images_per_s: float
    batch: int
    device: str
    dtype: str
    threads: int
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
    """Quality on the test split. Image numbers need OK and NG images, pixel numbers need masks."""

    image_auroc: Number
    image_ap: Number
    recall: Number
    false_alarm_rate: Number
    pixel_auroc: Number
    pixel_ap: Number
    au_pro: Number
    au_pro_05: Number


@dataclass(frozen=True)
class Failure:
    phase: Phase
    error_type: str
    message: str
    traceback: str
    attempt: int


@dataclass(frozen=True)
class UnitResult:
    """One row of the comparison. A failed unit has `failure` and no numbers."""

    unit_id: str
    line: str
    model: str
    seed: int
    provenance: Provenance | None = None
    weights_note: str = ""
    input: Input | None = None
    counts: Counts | None = None
    threshold: Threshold | None = None
    quality: Quality | None = None
    speed: Speed | None = None
    size: Size | None = None
    train_s: float | None = None
    not_exportable: str = ""
    failure: Failure | None = None
