"""What the pixels of one image say, measured as a line's images stream by: a table row and a fingerprint each.

Brightness, entropy, size, aspect and the digest of the pixels are CleanVision's, by its functions for one image: its
`Imagelab` wants a folder or a data set. Sharpness and fingerprint are ours; docs/data-quality.md says why. Memory:
about 0.6 KB an image.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from raybench.data.decode import decode_deep, eight_bit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import RejectedImage
from raybench.store import Store

FINGERPRINT = 8 * 8 - 1
_TONES = ("dark", "low_information")  # CleanVision's names: brightness, entropy
_SHAPES = ("odd_size", "odd_aspect_ratio")
_TONES_PX = 512  # tones are taken of every n-th pixel, so that so many are left of the longer side
_THUMB_PX = 64
_FLAT, _CONTRAST = 4.0, 50.0
_BAND_PX = 2**22
_NO_EDGES = 1e-3

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unreadable:
    """An image that was packed and cannot be decoded: a PNG whose checksums are right and whose pixels are not."""

    image_id: str
    split: str
    detail: str


@dataclass(frozen=True)
class Properties:
    """table: a row per image: image_id, split, label, height, width (pixels), colours, pixels (digest), sharpness,
    contrast, elongation (log2 of height / width) and CleanVision's own columns. fingerprints: (N, 63) float32.
    unreadable: images that are in neither."""

    table: pd.DataFrame
    fingerprints: Floats
    unreadable: tuple[Unreadable, ...] = ()


def join(parts: Sequence[Properties]) -> Properties:
    """The images of all parts, in their order."""
    full = [part for part in parts if len(part.table)]
    table = pd.concat([part.table for part in full], ignore_index=True) if full else pd.DataFrame()
    prints = np.concatenate([part.fingerprints for part in parts])
    return Properties(table, prints, tuple(one for part in parts for one in part.unreadable))


def measure_shard(lines: Store, manifest: Manifest, shard: ShardInfo, threads: int = 1) -> Properties:
    """Every image of a shard, decoded once. Encoded, the shard is held whole; decoded, `threads` images are.

    Raises IntegrityError, and the store's own errors.
    """

    def one(row: ImageRow) -> _Measured | Unreadable:
        try:
            return _measure(row, manifest.white_level)
        except RejectedImage as error:
            return Unreadable(row.image_id, row.split, error.detail)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, read_rows(lines, shard)))
    measured = [each for each in found if not isinstance(each, Unreadable)]
    return Properties(
        table=pd.DataFrame([values for values, _ in measured]),
        fingerprints=np.array([print_ for _, print_ in measured], np.float32).reshape(-1, FINGERPRINT),
        unreadable=tuple(each for each in found if isinstance(each, Unreadable)),
    )


_Measured = tuple[dict[str, Any], Floats]


def _measure(row: ImageRow, white_level: int) -> _Measured:
    stored = decode_deep(row.image)
    pixels = eight_bit(stored, white_level)
    is_grey = _is_grey(pixels)
    plane = np.ascontiguousarray(pixels[..., 0]) if is_grey else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grey = np.asarray(plane, np.uint8)
    depth = ", 16 bit" if stored.dtype == np.uint16 else ""
    values = {
        "image_id": row.image_id,
        "split": row.split,
        "label": row.label,
        "height": row.height,
        "width": row.width,
        "colours": ("grey" if is_grey else "colour") + depth,
        "sharpness": sharpness(grey),
        "contrast": float(grey.std()) / 255,
        "elongation": float(np.log2(row.height / row.width)),
        **_of_cleanvision(grey if is_grey else pixels),
    }
    return values, fingerprint(grey)


def _is_grey(pixels: npt.NDArray[np.uint8]) -> bool:
    first = pixels[..., 0]
    return bool(np.array_equal(first, pixels[..., 1]) and np.array_equal(first, pixels[..., 2]))


def _of_cleanvision(pixels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """pixels: (H, W) or (H, W, 3). Percentiles in double precision of every pixel would cost more than decoding."""
    from cleanvision.issue_managers.duplicate_issue_manager import get_hash

    known = cleanvision_properties()
    step = max(1, max(pixels.shape[:2]) // _TONES_PX)
    image, tones = Image.fromarray(pixels), Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    found: dict[str, Any] = {"pixels": get_hash(image, {"hash_type": "md5"})}
    for names, of in ((_TONES, tones), (_SHAPES, image)):
        for name in names:
            found |= known[name].calculate(of)
    return found


@functools.cache
def cleanvision_properties() -> Mapping[str, Any]:
    """CleanVision's image properties by the name of their issue. Imported late: it loads matplotlib's pyplot."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    return dict(ImagePropertyIssueManager().image_properties)


def sharpness(grey: Grey, band_px: int = _BAND_PX) -> float:
    """log2 of the Laplacian's RMS over the gradient's, at full resolution: one less when edges are twice as wide.

    Gain and the number of edges cancel, which the variance of the Laplacian alone (Pech-Pacheco et al. 2000,
    *Diatom autofocusing in brightfield microscopy*) depends on; kernels of 5 pixels see past the noise of sensors and
    JPEG. 0.0 without any edge.
    """
    curved = steep = 0.0
    for band in np.array_split(grey, max(1, grey.size // band_px)):
        curved += _energy(cv2.Laplacian(band, cv2.CV_32F, ksize=5, scale=1 / 16))
        for dx, dy in ((1, 0), (0, 1)):
            steep += _energy(cv2.Sobel(band, cv2.CV_32F, dx, dy, ksize=5, scale=1 / 128))
    if steep <= _NO_EDGES * grey.size:
        return 0.0
    return float(np.log2(max(curved, _NO_EDGES) / steep) / 2)


def _energy(values: npt.NDArray[Any]) -> float:
    return float(np.square(values).sum(dtype=np.float64))


def fingerprint(grey: Grey) -> Floats:
    """(63,) float32: low frequencies of a 64 × 64 thumbnail of a set mean and contrast, as a perceptual hash takes them
    (Zauner 2010, *Implementation and benchmarking of perceptual image hash functions*), but not cut to bits."""
    thumb = cv2.resize(grey, (_THUMB_PX, _THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumb -= thumb.mean()
    thumb *= _CONTRAST / max(float(thumb.std()), _FLAT)
    return np.asarray(dctn(thumb, norm="ortho")[:8, :8].ravel()[1:], np.float32)
