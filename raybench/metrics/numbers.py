"""Results with their conditions: estimates with intervals, thresholds, speed and quality.

An undefined number is `None` with a reason. No result is NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

IDLE_LOAD = 0.1
"""Share of the machine's cores that other programs may use while a speed is measured."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or the reason why it is undefined."""

    value: float | None
    """The number. None if undefined."""
    low: float | None = None
    """Lower end of the interval. None without an interval."""
    high: float | None = None
    """Upper end of the interval. None without an interval."""
    n: int = 0
    """Number of items, such as images or regions, that the estimate is based on."""
    reason: str | None = None
    """The reason why `value` is None."""


@dataclass(frozen=True)
class Threshold:
    """A threshold that is set on held-back OK images only."""

    value: float | None
    """An image is flagged when `score > value`. None without held-back OK images."""
    n: int
    """Number of held-back OK images."""
    budget: float
    """The false-alarm rate asked for."""
    promised: float
    """Upper bound of the mean false-alarm rate at `value`. It exceeds the budget when `n` is too small."""
    typical: float | None = None
    """Median score of the held-back images. Its distance to `value` is the unit in which scores of different models are
    compared."""
    note: str = ""
    """Conditions of the threshold, in words."""
    groups: int = 0
    """Number of groups of the held-back images; `n` if each is a group of its own, which is the default."""

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", self.n)


@dataclass(frozen=True)
class Speed:
    """Inference time with the device to itself, and its conditions.

    Times are wall times. On a CPU that other programs kept busy they are those of `timing.estimate_idle_speed`.
    """

    p50_ms: float
    """Median time of the model alone at batch size 1."""
    p95_ms: float
    """95th percentile of the same: the median over three rounds of calls, so that one disturbance does not decide."""
    prepare_ms: float
    """Median time to decode an image and resize it for the network."""
    end_to_end_ms: float
    """Median time to prepare and score one image."""
    images_per_s: float
    """Throughput of the model alone at `batch`."""
    batch: int
    """The batch size with the highest throughput of those tried."""
    device: str
    """Description of the device."""
    dtype: str
    """Data type of the computation."""
    threads: int
    """CPU threads used."""
    out_of_memory_at: int | None = None
    """The batch size that did not fit into the device's memory. None if all that were tried fit."""
    peak_memory_mb: float | None = None
    """Peak memory of the device in 10^6 bytes. None if the device does not report it."""
    other_load: float = 0.0
    """Share of the measurement's cores that other programs used meanwhile. It should be close to 0."""
    wall_p50_ms: float | None = None
    """The measured median where `p50_ms` is an estimate from CPU time. None where `p50_ms` was measured."""

    @property
    def is_disturbed(self) -> bool:
        """Whether other programs used the machine meanwhile, so that the times are estimates and decide nothing."""
        return self.other_load >= IDLE_LOAD


@dataclass(frozen=True)
class Quality:
    """Quality on the test split. Image metrics need OK and NG images, pixel metrics need masks.

    The fields are those of `ImageQuality`, `PixelQuality` and `HeatmapQuality`.
    """

    image_auroc: Estimate
    """Image AUROC."""
    image_ap: Estimate
    """Average precision over images."""
    image_f1_max: Estimate
    """F1 score of images at the best threshold."""
    recall: Estimate
    """Share of NG images above the threshold."""
    false_alarm_rate: Estimate
    """Share of OK images above the threshold."""
    pixel_auroc: Estimate
    """Pixel AUROC."""
    pixel_ap: Estimate
    """Average precision over pixels."""
    pixel_f1_max: Estimate
    """F1 score of pixels at the best threshold."""
    au_pro: Estimate
    """Area under per-region overlap up to a false-positive rate of 0.3, divided by 0.3."""
    au_pro_05: Estimate
    """The same up to a false-positive rate of 0.05."""
    aupimo: Estimate
    """Area under per-image overlap; see `PixelQuality`."""
    noise_ok: Estimate
    """Peaks of heat maps of OK images, relative to those of NG images; see `HeatmapQuality`."""
    noise_around: Estimate
    """Background of heat maps relative to the defect; see `HeatmapQuality`."""
    sharpness: Estimate
    """Share of the heat in and around a defect that is inside its mask; see `HeatmapQuality`."""


@dataclass(frozen=True)
class RegionRecall:
    """Share of annotated regions whose heat map exceeds the pixel threshold anywhere."""

    all: Estimate
    """Recall of all regions."""
    by_type: Mapping[str, Estimate]
    """Recall by defect type."""
    by_size: Mapping[str, Estimate]
    """Recall by size relative to the image; see `metrics.regions.SIZES`."""
