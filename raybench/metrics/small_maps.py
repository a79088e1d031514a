"""Heat maps drawn small while they are in memory, so that the report need not read them back."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz

SIDE_PX = 96
"""The longest side of a small heat map."""
_VERSION = 1
_NO_SPAN = 1e-30  # if all OK images have the same heat, everything hotter is bright
_HALF = 127  # heat code of the hottest OK image
_OCTAVES = 5  # of heat above it, up to the highest code

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SmallMaps:
    """Small heat maps of a shard, in its order."""

    image_ids: npt.NDArray[np.str_]
    """(n,) str."""
    heights: npt.NDArray[np.int32]
    """(n,) int32, pixels."""
    widths: npt.NDArray[np.int32]
    """(n,) int32, pixels."""
    codes: Codes
    """Heat codes of all maps one after the other, row by row, see `heat_codes`."""

    @classmethod
    def of(cls, image_ids: Sequence[str], maps: Sequence[Codes]) -> SmallMaps:
        """Pack maps (h, w) of heat codes, one of each image. Raises IntegrityError for another number of maps."""
        if len(maps) != len(image_ids):
            raise IntegrityError(f"{len(maps)} small heat maps of {len(image_ids)} images")
        heights, widths = (np.array([each.shape[axis] for each in maps], np.int32) for axis in (0, 1))
        codes = np.concatenate([each.ravel() for each in maps]) if maps else np.empty(0, np.uint8)
        return cls(np.array(image_ids, np.str_), heights, widths, codes)

    def only(self, image_ids: Container[str]) -> dict[str, Codes]:
        """Return the maps of some images, by id; unknown ids are ignored."""
        sizes = list(zip(self.heights.tolist(), self.widths.tolist(), strict=True))
        starts = itertools.accumulate((height * width for height, width in sizes), initial=0)
        rows = zip(self.image_ids.tolist(), sizes, starts, strict=False)
        return {
            name: self.codes[start : start + height * width].reshape(height, width)
            for name, (height, width), start in rows
            if name in image_ids
        }

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        return npz.to_bytes("small heat maps", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> SmallMaps:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        return cls(**npz.from_bytes("small heat maps", _VERSION, data))


def heat_codes(heat: npt.NDArray[np.float32], low: float, high: float) -> Codes:
    """Encode heat in 8 bits, so that neither a faint nor a very hot place is lost.

    Args:
        heat: Of any shape, float32.
        low: Heat with code 0: the median of OK images.
        high: Heat with code 127: the highest of OK images.

    Returns:
        uint8: in proportion up to `high`, logarithmic above, up to 32 times as far from `low` as `high` is.
    """
    share = np.maximum((heat.astype(np.float64) - low) / max(high - low, _NO_SPAN), 0)
    above = np.log2(np.maximum(share, 1)) / _OCTAVES * (255 - _HALF)
    codes: Codes = np.rint(np.minimum(np.minimum(share, 1) * _HALF + above, 255)).astype(np.uint8)
    return codes


def small_size(height: int, width: int, longest: int = SIDE_PX) -> tuple[int, int]:
    """Return height and width of an image made so small that no side is longer than `longest`."""
    scale = min(longest / max(height, width), 1)
    return max(1, round(height * scale)), max(1, round(width * scale))
