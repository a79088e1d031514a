"""Measure properties and a fingerprint of each image of a line, as a stream.

Brightness, entropy, size, aspect and the digest of the pixels come from CleanVision's functions for one image, as its
`Imagelab` needs a folder or a data set. Sharpness and fingerprint are our own; docs/data-quality.md gives the reasons.
Only the region of interest of an image is measured; its size is that of the whole image. Memory is about 0.6 KB per
image.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from raybench.data.decode import decode_deep, decode_mask, eight_bit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.roi import fill_outside, roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import RejectedImage
from raybench.store import Store

FINGERPRINT = 8 * 8 - 1  # numbers per image
_TONES = ("dark", "low_information")  # CleanVision's names of brightness and entropy
_SHAPES = ("odd_size", "odd_aspect_ratio")
_TONES_PX = 512  # brightness and entropy use every n-th pixel, so that the longer side has about this many
_THUMB_PX = 64
_FLAT, _CONTRAST = 4.0, 50.0  # least standard deviation of a thumbnail; the one that it is scaled to
_BAND_PX = 2**22
_NO_EDGES = 1e-3  # mean squared gradient

Bools = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unreadable:
    """A packed image that cannot be decoded: a PNG with valid checksums and invalid pixel data."""

    image_id: str
    split: str
    detail: str


@dataclass(frozen=True)
class Properties:
    """Properties and fingerprints of images."""

    table: pd.DataFrame
    """A row per image: image_id, split, label, height, width (pixels), colours, pixels (digest), sharpness, contrast,
    elongation (log2 of height / width), mask_share (masked share of the image; NaN without a mask) and the columns of
    CleanVision."""
    fingerprints: Floats
    """(N, 63) float32, in the order of `table`."""
    unreadable: tuple[Unreadable, ...] = ()
    """Images that are not in `table`."""


def join(parts: Sequence[Properties]) -> Properties:
    """Concatenate properties, in the order of `parts`."""
    tables = [part.table for part in parts if len(part.table)]
    return Properties(
        table=pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        fingerprints=np.concatenate([part.fingerprints for part in parts]),
        unreadable=tuple(image for part in parts for image in part.unreadable),
    )


def measure_shard(
    lines: Store, manifest: Manifest, shard: ShardInfo, threads: int = 1, only: Collection[str] | None = None
) -> Properties:
    """Measure images of a shard. In memory are all these images, encoded, and `threads` decoded ones.

    Args:
        lines: The store of lines.
        manifest: Manifest of the line.
        shard: The shard.
        threads: Threads that decode.
        only: IDs of the images to measure. None measures all.

    Raises:
        IntegrityError: The shard is damaged.
        StoreError: The store cannot be read.
    """

    def measure(row: ImageRow) -> _Measured | Unreadable:
        try:
            return _measure(row, manifest)
        except RejectedImage as error:
            return Unreadable(row.image_id, row.split, error.detail)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(measure, read_rows(lines, shard, only=only)))
    measured = [result for result in results if not isinstance(result, Unreadable)]
    return Properties(
        table=pd.DataFrame([values for values, _ in measured]),
        fingerprints=np.array([vector for _, vector in measured], np.float32).reshape(-1, FINGERPRINT),
        unreadable=tuple(result for result in results if isinstance(result, Unreadable)),
    )


_Measured = tuple[dict[str, Any], Floats]


def _measure(row: ImageRow, manifest: Manifest) -> _Measured:
    stored, roi = decode_deep(row.image), roi_of(row)
    inside = None if roi is None else roi.inside
    pixels = fill_outside(eight_bit(stored, manifest.white_level, manifest.black_level), roi)
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
        "sharpness": sharpness(grey, inside),
        "contrast": float((grey if inside is None else grey[inside]).std()) / 255,
        "elongation": float(np.log2(row.height / row.width)),
        "mask_share": _mask_share(row),
        **_measure_with_cleanvision(grey if is_grey else pixels, inside),
    }
    return values, fingerprint(grey, inside)


def _mask_share(row: ImageRow) -> float:
    return float(decode_mask(row.mask, row.height, row.width).mean()) if row.mask else float("nan")


def _is_grey(pixels: npt.NDArray[np.uint8]) -> bool:
    first = pixels[..., 0]
    return bool(np.array_equal(first, pixels[..., 1]) and np.array_equal(first, pixels[..., 2]))


def _measure_with_cleanvision(pixels: npt.NDArray[np.uint8], inside: Bools | None) -> dict[str, Any]:
    """Measure CleanVision's properties of (H, W) or (H, W, 3) pixels, brightness and entropy of those inside."""
    from cleanvision.issue_managers.duplicate_issue_manager import get_hash

    functions = cleanvision_properties()
    # Percentiles of all pixels, in double precision, would cost more than decoding.
    step = max(1, max(pixels.shape[:2]) // _TONES_PX)
    sampled = pixels[::step, ::step]
    if inside is not None:  # neither brightness nor entropy depends on the places of pixels
        some = sampled[inside[::step, ::step]]
        sampled = (some if len(some) else pixels[inside])[np.newaxis]
    image, tones = Image.fromarray(pixels), Image.fromarray(np.ascontiguousarray(sampled))
    values: dict[str, Any] = {"pixels": get_hash(image, {"hash_type": "md5"})}
    for names, measured in ((_TONES, tones), (_SHAPES, image)):
        for name in names:
            values |= functions[name].calculate(measured)
    return values


@functools.cache
def cleanvision_properties() -> Mapping[str, Any]:
    """Return CleanVision's image properties by the name of their issue. The import is late, as it loads pyplot."""
    from cleanvision.issue_managers.image_property_issue_manager import ImagePropertyIssueManager

    return dict(ImagePropertyIssueManager().image_properties)


def sharpness(grey: Grey, inside: Bools | None = None, band_px: int = _BAND_PX) -> float:
    """Measure sharpness as log2 of the RMS of the Laplacian over the RMS of the gradient, at full resolution.

    Edges twice as wide give one less. Gain and the number of edges cancel; the variance of the Laplacian alone
    (Pech-Pacheco et al. 2000, *Diatom autofocusing in brightfield microscopy*) depends on both. Kernels of 5 pixels
    suppress the noise of sensors and JPEG.

    Args:
        grey: (H, W) uint8.
        inside: (H, W) bool: the region of interest. Its edge is no edge of the image. None takes all pixels.
        band_px: Pixels that are filtered at a time, which bounds memory.

    Returns:
        The sharpness. 0.0 for an image without edges.
    """
    laplacian = gradient = 0.0
    counted = None if inside is None else cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
    count = max(1, grey.size // band_px)
    parts = [None] * count if counted is None else np.array_split(counted, count)
    for band, part in zip(np.array_split(grey, count), parts, strict=True):
        laplacian += _energy(cv2.Laplacian(band, cv2.CV_32F, ksize=5, scale=1 / 16), part)
        for dx, dy in ((1, 0), (0, 1)):
            gradient += _energy(cv2.Sobel(band, cv2.CV_32F, dx, dy, ksize=5, scale=1 / 128), part)
    if gradient <= _NO_EDGES * (grey.size if counted is None else np.count_nonzero(counted)):
        return 0.0
    return float(np.log2(max(laplacian, _NO_EDGES) / gradient) / 2)


def _energy(values: npt.NDArray[Any], counted: Bools | None) -> float:
    return float(np.square(values if counted is None else values[counted]).sum(dtype=np.float64))


def fingerprint(grey: Grey, inside: Bools | None = None) -> Floats:
    """Compute a fingerprint that survives changes of gain, size and file format.

    The low frequencies of a 64 × 64 thumbnail of normalised mean and contrast, as in a perceptual hash (Zauner 2010,
    *Implementation and benchmarking of perceptual image hash functions*), but not reduced to bits.

    Args:
        grey: (H, W) uint8.
        inside: (H, W) bool: the region of interest, outside of which the mean is taken. None takes all pixels.

    Returns:
        (63,) float32.
    """
    if inside is not None:
        grey = np.where(inside, grey, np.uint8(round(float(grey[inside].mean()))))
    thumb = cv2.resize(grey, (_THUMB_PX, _THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumb -= thumb.mean()
    thumb *= _CONTRAST / max(float(thumb.std()), _FLAT)
    return np.asarray(dctn(thumb, norm="ortho")[:8, :8].ravel()[1:], np.float32)
