"""Numbers with their conditions: estimates with intervals, thresholds, speed, and the tables made of them.

Undefined numbers are `None` with a reason; NaN and infinity never leave a unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
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
class Quality:
    """Quality on the test split. Image numbers need OK and NG images, pixel numbers need masks.

    au_pro, au_pro_05: up to a false-positive rate of 0.3 and of 0.05. ..._f1_max: the F1 score of the best threshold.
    noise_ok, noise_around, sharpness: how clean the heat maps are; see `metrics.heatmap_contrast`.
    """

    image_auroc: Estimate
    image_ap: Estimate
    image_f1_max: Estimate
    recall: Estimate
    false_alarm_rate: Estimate
    pixel_auroc: Estimate
    pixel_ap: Estimate
    pixel_f1_max: Estimate
    au_pro: Estimate
    au_pro_05: Estimate
    aupimo: Estimate
    noise_ok: Estimate
    noise_around: Estimate
    sharpness: Estimate


@dataclass(frozen=True)
class RegionRecall:
    """Share of the masks' regions that the thresholded heat map touches: all, by defect type, by size."""

    all: Estimate
    by_type: Mapping[str, Estimate]
    by_size: Mapping[str, Estimate]
