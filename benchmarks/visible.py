"""Whether a change of light can be seen on a line at all: judged by plain statistics of tone, which the signals do not
use, against the line's own OK training images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.views import Image

USUAL = 0.95  # share of the OK training images that show less
_BLOCKS = 4  # a side
_QUANTILES = (0.05, 0.5, 0.95)  # of grey levels
_NEVER_SEEN = 0.01  # a hundredth of the brightness


@dataclass(frozen=True)
class Usual:
    """What OK images of a line show. middle, spread: (F,) of each statistic its median, and what USUAL of the images
    keep to around it. limit: of the farthest statistic, in spreads."""

    middle: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    limit: float

    @classmethod
    def of(cls, images: Iterable[Image]) -> Usual:
        found = np.stack([_tones(image) for image in images])
        middle = np.median(found, axis=0)
        spread = np.quantile(np.abs(found - middle), USUAL, axis=0) + _NEVER_SEEN
        return cls(middle, spread, float(np.quantile((np.abs(found - middle) / spread).max(axis=1), USUAL)))

    def is_left_by(self, image: Image) -> bool:
        """(H, W, 3) uint8 RGB. False where USUAL of the OK images are as far from the middle in some statistic."""
        return float((np.abs(_tones(image) - self.middle) / self.spread).max()) > self.limit


def _tones(image: Image) -> npt.NDArray[np.float64]:
    """(F,) float64 logarithms: quantiles of the grey levels; means and bright levels of blocks over their average;
    colour ratios."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    blocks = [block for rows in np.array_split(grey, _BLOCKS) for block in np.array_split(rows, _BLOCKS, axis=1)]
    means = np.log1p([float(block.mean()) for block in blocks])
    bright = np.log1p([float(np.quantile(block, _QUANTILES[-1])) for block in blocks])
    red, green, blue = np.log1p(image.reshape(-1, 3).mean(axis=0))
    return np.concatenate(
        [
            np.log1p(np.quantile(grey, _QUANTILES)),
            means - means.mean(),
            bright - bright.mean(),
            [red - green, blue - green],
        ]
    )
