"""Describe the anomalous part of an image as a short vector, so that a queue does not repeat the same defect.

The *hot part* of an image is where the heat map reaches half of its maximum, both counted from the heat of a typical OK
image. Image and heat map are first reduced to a common size of at most SIDE_PX pixels per side. Blocks of the vector:

place     16  heat above typical in a grid of 4 × 4 cells, as shares
extent     3  share of the hot part in the image (log10), share of its largest region in it, elongation of that region
colour     6  mean and standard deviation of L*, a*, b* in the hot part
contrast   3  mean of L*, a*, b* in the hot part, minus that of a ring around it
texture    9  mean gradient in the hot part (log), and its directions in 8 bins of 22.5°, as shares
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from raybench.errors import IntegrityError
from raybench.metrics import npz

SIDE_PX = 128
BLOCKS = {"place": 16, "extent": 3, "colour": 6, "contrast": 3, "texture": 9}
SIZE = sum(BLOCKS.values())
_GRID, _BINS, _RING_PX = 4, 8, 9
_FAR_OFF = 3.0  # standard deviations at which values are clipped
_VERSION = 1
_NO_HEAT = 1e-30

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Descriptors:
    """Descriptors of images, sorted by id, each image once."""

    image_ids: npt.NDArray[np.str_]
    """(n,) str."""
    defect_types: npt.NDArray[np.str_]
    """(n,) str; "" if unknown."""
    values: Floats
    """(n, SIZE) float32."""

    @classmethod
    def empty(cls) -> Descriptors:
        """Descriptors of no images."""
        return cls.of((), (), ())

    @classmethod
    def of(
        cls, image_ids: Sequence[str], defect_types: Sequence[str], values: Sequence[Floats] | Floats
    ) -> Descriptors:
        """Sort descriptors by image id. Raises IntegrityError when an id is duplicated."""
        ids = np.array(image_ids, np.str_)
        order = np.argsort(ids, kind="stable")
        if (ids[order][1:] == ids[order][:-1]).any():
            raise IntegrityError("an image was described twice")
        rows = np.array(values, np.float32).reshape(len(ids), SIZE)
        return cls(ids[order], np.array(defect_types, np.str_)[order], rows[order])

    def merge(self, *others: Descriptors) -> Descriptors:
        """Return the descriptors of all images. Raises IntegrityError when an id is duplicated."""
        parts = [part for part in (self, *others) if len(part.image_ids)]
        if not parts:
            return self
        ids, types = (np.concatenate([getattr(part, name) for part in parts]) for name in ("image_ids", "defect_types"))
        return Descriptors.of(ids.tolist(), types.tolist(), np.concatenate([part.values for part in parts]))

    def only(self, image_ids: Sequence[str]) -> Descriptors:
        """Select images by id; unknown ids are ignored."""
        kept = np.isin(self.image_ids, np.array(image_ids, np.str_))
        return Descriptors(self.image_ids[kept], self.defect_types[kept], self.values[kept])

    def points(self, image_ids: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return images as points whose distances measure their difference.

        All blocks have the same weight, and the root mean square distance of two of these images is 1.

        Args:
            image_ids: Ids of n images.

        Returns:
            (n, SIZE) float64; NaN for unknown ids.
        """
        points = np.full((len(image_ids), SIZE), np.nan)
        wanted = np.array(image_ids, np.str_)
        index = np.searchsorted(self.image_ids, wanted)
        known = np.flatnonzero(index < len(self.image_ids))
        known = known[self.image_ids[index[known]] == wanted[known]]
        if len(known):
            points[known] = _standardised(self.values[index[known]].astype(np.float64))
        return points

    def to_bytes(self) -> bytes:
        """Serialise for the store."""
        return npz.to_bytes("traits", _VERSION, vars(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Descriptors:
        """Read what `to_bytes` returned. Raises IntegrityError for other bytes."""
        return cls(**npz.from_bytes("traits", _VERSION, data))


def _standardised(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spread = values.std(axis=0)
    scaled = np.where(spread > 0, (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)
    sizes = np.concatenate([np.full(size, size) for size in BLOCKS.values()])
    weighted: npt.NDArray[np.float64] = np.clip(scaled, -_FAR_OFF, _FAR_OFF) / np.sqrt(2 * sizes * len(BLOCKS))
    return weighted


def describe(heatmap: Floats, image: npt.NDArray[np.uint8], typical: float) -> Floats:
    """Compute the descriptor of one image.

    Args:
        heatmap: (H, W) float32.
        image: (H, W, 3) uint8 RGB.
        typical: Median heat of OK images.

    Returns:
        (SIZE,) float32.
    """
    heat, picture = _small(heatmap, image)
    heat = np.maximum(heat - np.float32(typical), 0)
    hot = heat >= max(float(heat.max()) / 2, _NO_HEAT)
    cells = cv2.resize(heat, (_GRID, _GRID), interpolation=cv2.INTER_AREA).ravel()
    place = cells / max(float(cells.sum()), _NO_HEAT)
    if not hot.any():  # no pixel is hotter than a typical OK image: describe the whole image
        hot[:] = True
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab).astype(np.float32, copy=False)
    inside = hot.astype(np.uint8)
    blocks = [place, _extent(inside), *_colour(lab, inside), _texture(lab, hot)]
    return np.concatenate(blocks).astype(np.float32)


def _small(heatmap: Floats, image: npt.NDArray[np.uint8]) -> tuple[Floats, npt.NDArray[np.uint8]]:
    height, width = heatmap.shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = (max(_GRID, round(width * scale)), max(_GRID, round(height * scale)))
    heat, picture = (
        cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA) for part in (heatmap, image)
    )
    return heat.astype(np.float32, copy=False), picture.astype(np.uint8, copy=False)


def _extent(inside: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    largest = cv2.moments((labels == 1 + int(np.argmax(areas))).astype(np.uint8), binaryImage=True)
    across = np.array([[largest["mu20"], largest["mu11"]], [largest["mu11"], largest["mu02"]]]) / largest["m00"]
    short, long = np.sqrt(np.maximum(np.linalg.eigvalsh(across), 0) + 1 / 12)  # a pixel itself has the variance 1/12
    return np.array([np.log10(areas.sum() / inside.size), areas.max() / areas.sum(), np.log2(long / short)])


def _colour(lab: Floats, inside: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the blocks colour and contrast."""
    mean, spread = (part[:, 0] for part in cv2.meanStdDev(lab, mask=inside))
    yield np.concatenate([mean, spread])
    around = cv2.dilate(inside, np.ones((_RING_PX, _RING_PX), np.uint8)) - inside
    yield mean - np.array(cv2.mean(lab, mask=around)[:3]) if around.any() else np.zeros(3)


def _texture(lab: Floats, hot: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    light = np.ascontiguousarray(lab[..., 0])
    across, down = (cv2.Sobel(light, cv2.CV_32F, *order, ksize=3)[hot] for order in ((1, 0), (0, 1)))
    strength = np.hypot(across, down).astype(np.float64)
    bins = (np.floor(np.arctan2(down, across) / np.pi * _BINS) % _BINS).astype(np.intp)
    shares = np.bincount(bins, strength, _BINS) / max(float(strength.sum()), _NO_HEAT)
    return np.concatenate([[np.log1p(strength.mean())], shares])
