"""Contrast of heat maps: how bright the background is relative to the defect, and how sharply the defect is bounded.

*Contrast* is heat in excess of that of a typical OK image, and never below 0. Each image is reduced to four numbers, so
memory does not grow with its pixels. The metrics are means over images, with bootstrap intervals over images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz
from raybench.metrics.heat import Heat
from raybench.metrics.intervals import Indices, bootstrap, group_numbers, percentile_interval
from raybench.metrics.masks import Mask
from raybench.metrics.numbers import Estimate

_VERSION = 1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeatmapContrast:
    """Contrast of images labelled ok or ng, sorted by id."""

    image_ids: npt.NDArray[np.str_]
    """(n,) str."""
    labels: npt.NDArray[np.str_]
    """(n,) str: "ok" or "ng"."""
    peaks: Floats
    """(n,) float64: highest contrast in the image."""
    inside: Floats
    """(n,) float64: mean contrast of the mask's pixels. NaN without a mask."""
    outside: Floats
    """(n,) float64: mean contrast of all other pixels. NaN without a mask."""
    sharp: Floats
    """(n,) float64: share of the contrast in and around the mask that is inside it. NaN without a mask."""

    @classmethod
    def empty(cls) -> HeatmapContrast:
        """Contrast of no images."""
        text, number = np.empty(0, np.str_), np.empty(0, np.float64)
        return cls(text, text, number, number, number, number)

    @classmethod
    def of(cls, image_id: str, label: str, heat: Heat, mask: Mask | None) -> HeatmapContrast:
        """Describe one image.

        Args:
            image_id: Id of the image.
            label: "ok" or "ng".
            heat: Its heat map in numbers.
            mask: Its anomalous pixels. None if unknown.
        """
        inside, outside, sharp = np.nan, np.nan, np.nan
        if mask is not None and mask.area:
            inside = heat.inside / mask.area
            outside = (heat.total - heat.inside) / max(mask.normal, 1)
            near = heat.inside + heat.around
            sharp = heat.inside / near if near else 0.0
        return cls(
            image_ids=np.array([image_id]),
            labels=np.array([label]),
            peaks=np.array([heat.peak]),
            inside=np.array([inside]),
            outside=np.array([outside]),
            sharp=np.array([sharp]),
        )

    def merge(self, *others: HeatmapContrast) -> HeatmapContrast:
        """Return all images. Raises IntegrityError when an image occurs twice with different heat maps."""
        parts = (self, *others)
        whole = HeatmapContrast(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(HeatmapContrast))
        )
        kept, first, index = np.unique(whole.image_ids, return_index=True, return_inverse=True)
        if (whole.peaks[first][index] != whole.peaks).any():
            raise IntegrityError("one image has two different heat maps")
        return HeatmapContrast(kept, *(getattr(whole, field.name)[first] for field in fields(HeatmapContrast)[1:]))

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        return npz.to_bytes("contrast", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> HeatmapContrast:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        return cls(**npz.from_bytes("contrast", _VERSION, data))


@dataclass(frozen=True)
class HeatmapQuality:
    """Metrics of the contrast of heat maps."""

    noise_ok: Estimate
    """Peak of an OK image relative to that of a typical (median) NG image, from 0 (dark) to 1 (as bright, or brighter).
    It needs no masks."""
    noise_around: Estimate
    """Mean contrast of the background of an image with a defect, relative to that of the defect. Also from 0 to 1."""
    sharpness: Estimate
    """Share of the contrast in a defect and within 3 % of the image's shorter side around it that is inside its
    mask."""


def heatmap_quality(
    contrast: HeatmapContrast, groups: Mapping[str, str] | None = None, seed: int = 0
) -> HeatmapQuality:
    """Compute the metrics over all images, with intervals over groups of images; undefined metrics have a reason.

    Args:
        contrast: Contrast of all images.
        groups: Group of each image by image_id; each image is its own if None.
        seed: Seed of the resamples.
    """
    names = contrast.image_ids if groups is None else np.array([groups[name] for name in contrast.image_ids.tolist()])
    is_ok, is_ng = contrast.labels == "ok", contrast.labels == "ng"
    masked = np.isfinite(contrast.inside)
    none = Estimate(None, reason="no masks of defects" if len(contrast.image_ids) else "no heat maps")
    noise_ok = none
    if is_ok.any() and is_ng.any():
        peaks = contrast.peaks[is_ok], contrast.peaks[is_ng]
        noise_ok = _noise_ok(*peaks, (group_numbers(names[is_ok]), group_numbers(names[is_ng])), seed)
    elif len(contrast.image_ids):
        count = int(is_ok.sum())
        noise_ok = Estimate(None, n=count, reason=f"no {'NG' if count else 'OK'} images with a heat map")
    if not masked.any():
        return HeatmapQuality(noise_ok, none, none)
    of_masked = group_numbers(names[masked])
    noise_around = _mean(_ratio(contrast.outside[masked], contrast.inside[masked]), of_masked, seed)
    return HeatmapQuality(noise_ok, noise_around, _mean(contrast.sharp[masked], of_masked, seed))


def _ratio(background: Floats, defect: Floats) -> Floats:
    """Divide; the result is capped at 1, and 1 where the defect has no contrast at all."""
    ratio = np.divide(
        background, defect, out=np.ones(np.broadcast_shapes(background.shape, defect.shape)), where=defect > 0
    )
    return np.minimum(ratio, 1.0)


def _noise_ok(ok: Floats, ng: Floats, groups: tuple[Indices, Indices], seed: int) -> Estimate:
    """Return the mean of OK peaks relative to the median NG peak; both are resampled."""
    ascending = np.sort(ng)
    order = np.argsort(ng)

    def statistic(of_ok: Floats, of_ng: Floats) -> Floats:
        half = np.cumsum(of_ng[:, order], axis=1) / len(ng)
        median = (
            ascending[(half < 0.5).sum(axis=1)] + ascending[np.minimum((half <= 0.5).sum(axis=1), len(ng) - 1)]
        ) / 2
        noise: Floats = (of_ok * _ratio(ok, median[:, np.newaxis])).mean(axis=1)
        return noise

    value = float(_ratio(ok, np.median(ng, keepdims=True)).mean())
    low, high = percentile_interval(bootstrap(groups, statistic, seed))
    return Estimate(value, min(low, value), max(high, value), len(ok))


def _mean(values: Floats, groups: Indices, seed: int) -> Estimate:
    n = len(values)
    low, high = percentile_interval(bootstrap((groups,), lambda drawn: drawn @ values / n, seed))
    return Estimate(float(values.mean()), low, high, n)
