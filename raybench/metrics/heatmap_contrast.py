"""How clean heat maps are: how bright the background is beside the defect, and how sharply the defect stands out.

*Contrast* is heat above that of a typical OK image, never below 0. Each image leaves five numbers, so memory does not
grow with its pixels; the numbers are means over images, with bootstrap intervals over images.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz
from raybench.metrics.intervals import bootstrap, percentile_interval
from raybench.metrics.numbers import Estimate

MARGIN = 0.03  # of the image's shorter side: what lies around a defect
_VERSION = 1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeatmapContrast:
    """Images labelled ok or ng, sorted by id. image_ids, labels: (n,) str. peaks: (n,) float64, the highest glow.
    inside, outside: (n,) float64, the mean glow of the mask's pixels and of all others; NaN without a mask.
    sharp: (n,) float64, of the glow in and around the mask the share inside it; NaN without a mask."""

    image_ids: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    peaks: Floats
    inside: Floats
    outside: Floats
    sharp: Floats

    @classmethod
    def empty(cls) -> HeatmapContrast:
        text, number = np.empty(0, np.str_), np.empty(0, np.float64)
        return cls(text, text, number, number, number, number)

    @classmethod
    def of(
        cls,
        image_id: str,
        label: str,
        heatmap: npt.NDArray[np.float32],
        typical: float,
        mask: npt.NDArray[np.bool_] | None,
    ) -> HeatmapContrast:
        """One image. heatmap: (H, W). typical: the heat of a typical OK image. mask: (H, W), where it is known."""
        heat = np.maximum(heatmap - np.float32(typical), 0)
        found = _around(heat, mask) if mask is not None and mask.any() else (np.nan, np.nan, np.nan)
        return cls(np.array([image_id]), np.array([label]), *(np.array([value]) for value in (heat.max(), *found)))

    def merge(self, *others: HeatmapContrast) -> HeatmapContrast:
        """All together. Raises IntegrityError when an image comes twice and differs."""
        parts = (self, *others)
        whole = HeatmapContrast(
            *(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(HeatmapContrast))
        )
        kept, first, place = np.unique(whole.image_ids, return_index=True, return_inverse=True)
        if (whole.peaks[first][place] != whole.peaks).any():
            raise IntegrityError("one image has two different heat maps")
        return HeatmapContrast(kept, *(getattr(whole, each.name)[first] for each in fields(HeatmapContrast)[1:]))

    def to_bytes(self) -> bytes:
        return npz.to_bytes("glow", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> HeatmapContrast:
        """Raises IntegrityError."""
        return cls(**npz.from_bytes("glow", _VERSION, data))


@dataclass(frozen=True)
class HeatmapQuality:
    """noise_ok: how bright the brightest spot of an OK image is beside that of a typical (median) NG image; needs no
    masks. noise_around: how bright the rest of an image with a defect is beside the defect. Both from 0 (dark) to 1 (as
    bright, or brighter). sharpness: of the glow within 3 % of the image's shorter side around a defect, the share
    inside its mask."""

    noise_ok: Estimate
    noise_around: Estimate
    sharpness: Estimate


def heatmap_quality(glow: HeatmapContrast, seed: int = 0) -> HeatmapQuality:
    """The numbers over all images, undefined ones with a reason."""
    ok, ng = (glow.peaks[glow.labels == label] for label in ("ok", "ng"))
    masked = np.isfinite(glow.inside)
    none = Estimate(None, reason="no masks of defects" if len(glow.image_ids) else "no heat maps")
    noise_ok = none
    if len(ok) and len(ng):
        noise_ok = _mean(_ratio(ok, np.full(len(ok), np.median(ng))), seed)
    elif len(glow.image_ids):
        noise_ok = Estimate(None, n=len(ok), reason=f"no {'NG' if len(ok) else 'OK'} images with a heat map")
    if not masked.any():
        return HeatmapQuality(noise_ok, none, none)
    around = _mean(_ratio(glow.outside[masked], glow.inside[masked]), seed)
    return HeatmapQuality(noise_ok, around, _mean(glow.sharp[masked], seed))


def _around(heat: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """Mean glow inside the mask and outside it, and the share inside of what glows in and around it."""
    total, inside = float(heat.sum(dtype=np.float64)), float(heat[mask].sum(dtype=np.float64))
    area, outside_px = int(mask.sum()), int((~mask).sum())
    margin = max(1, round(MARGIN * min(mask.shape)))
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    near = cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)
    glowing = float(heat[near].sum(dtype=np.float64))
    return inside / area, (total - inside) / max(outside_px, 1), inside / glowing if glowing else 0.0


def _ratio(background: Floats, defect: Floats) -> Floats:
    """Capped at 1; 1 where the defect does not glow at all."""
    return np.minimum(np.divide(background, defect, out=np.ones_like(background), where=defect > 0), 1.0)


def _mean(values: Floats, seed: int) -> Estimate:
    n = len(values)
    low, high = percentile_interval(bootstrap((n,), lambda drawn: drawn @ values / n, seed))
    return Estimate(float(values.mean()), low, high, n)
