"""Generated images: a smooth picture with sensor noise, and for half of them a dark spot."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
_FIELDS = 8  # of noise, shifted per image: drawing a new one for each takes longer than encoding it
_COMPRESSION = 1


class Pictures:
    """Images in memory. Implements `detectors.protocol.TrainImages`.

    Args:
        count: Number of images.
        side: Height and width in pixels.
        seed: Seed of noise and spots. The picture beneath is always the same.
        spots: Whether every second image has a spot.
    """

    def __init__(self, count: int, side: int = 256, seed: int = 0, *, spots: bool = False) -> None:
        source = _Source(side)
        drawn = (source.image(index, seed, spot=spots and index % 2 == 1)[0] for index in range(count))
        self.pixels: Images = np.stack(list(drawn))
        self.image_ids = tuple(str(index) for index in range(count))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> Images:
        return self.pixels[list(indices)].copy()


class _Source:
    """Draws images of one size."""

    def __init__(self, side: int) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(60, 190, (24, 24, 3), np.uint8)
        self.side = side
        self._base = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        self._noise = [rng.integers(-3, 4, (side, side, 1), np.int16) for _ in range(_FIELDS)]

    def image(self, index: int, seed: int, *, spot: bool) -> tuple[Images, Images]:
        """Return an image (side, side, 3) and its mask (side, side), 255 in the spot."""
        rng = np.random.default_rng((seed, index))
        noise = np.roll(self._noise[index % _FIELDS], tuple(rng.integers(0, self.side, 2)), (0, 1))
        pixels = np.clip(self._base + noise + rng.integers(-6, 7, 3), 0, 255).astype(np.uint8)
        mask = np.zeros((self.side, self.side), np.uint8)
        if spot:
            centre = tuple(rng.integers(self.side // 8, self.side - self.side // 8, 2).tolist())
            for drawn, colour in ((pixels, (10, 20, 30)), (mask, (255,))):
                cv2.circle(drawn, centre, self.side // 24, colour, -1)
        return pixels, mask


def write_line(folder: Path, side: int, train: int, scored: int, threads: int) -> None:
    """Write a line in the layout "mvtec": OK images to train on; test images, every second NG with a mask."""
    source = _Source(side)
    for name in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / name).mkdir(parents=True)

    def write(index: int) -> None:
        spot = index >= train and index % 2 == 1
        kind = "train/good" if index < train else "test/spot" if spot else "test/good"
        pixels, mask = source.image(index, 1, spot=spot)
        _write(folder / kind / f"{index:04}.png", pixels)
        if spot:
            _write(folder / "ground_truth/spot" / f"{index:04}_mask.png", mask)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(train + scored)))


def _write(path: Path, pixels: Any) -> None:
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION]):
        raise OSError(f"{path} could not be written")
