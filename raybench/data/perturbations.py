"""Images as another light, lens or camera would take them, or with the part in another place.

Geometry is in shares of an image's shorter side, light and noise in shares of white, so that a plant can tell whether
it has them. Noise is that of a camera's pixels: where large images are made small for a network, most of it averages
out. Direction and noise follow from the image's ID, so the same image is always perturbed in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from raybench.data.cache import CachedShard, Index, IndexRow, cached_images, index_of
from raybench.data.geometry import InputFit, to_network
from raybench.data.line import Line
from raybench.data.roi import fill_outside
from raybench.errors import IntegrityError
from raybench.metrics.roi import Roi
from raybench.store import digest

Image = npt.NDArray[np.uint8]

VERSION = 1
"""Of the perturbations. It changes with their pixels."""
WHITE = 255


@dataclass(frozen=True)
class Perturbation:
    """A change of the conditions under which images are taken."""

    kind: str
    """What changes: a key of `KINDS`."""
    strength: float
    """How much: a share of white or of the image's shorter side; degrees of a rotation."""

    @property
    def name(self) -> str:
        """Kind and strength in words: `darker 20 %`."""
        amount = f"{self.strength:g}°" if self.kind == "rotation" else f"{100 * self.strength:g} %"
        return f"{self.kind} {amount}"

    def apply(self, image: Image, image_id: str) -> Image:
        """Perturb an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            image_id: Its ID, which seeds directions and noise.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        seed = hashlib.sha256(f"{self.name} {image_id}".encode()).digest()
        return KINDS[self.kind](image, self.strength, np.random.default_rng(list(seed)))


def as_bytes(values: npt.NDArray[np.floating]) -> Image:
    """Round and clip grey levels to uint8."""
    return np.asarray(np.clip(np.rint(values), 0, WHITE), np.uint8)


def side_of(image: Image) -> int:
    """Return the shorter side, in pixels."""
    return int(min(image.shape[0], image.shape[1]))


def warped(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    """Apply an affine transform, (2, 3), and continue the border pixels."""
    size = image.shape[1::-1]
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def scaled(image: Image, factor: float) -> Image:
    """Multiply all pixel values; what exceeds white stays white."""
    return as_bytes(image * factor)


def lit_from_side(image: Image, share: float, angle: float) -> Image:
    """Make one side brighter by a share of its values, and the opposite one darker. angle: of the light, in radians."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.cos(angle) * x + np.sin(angle) * y
    plane = np.asarray(plane / np.abs(plane).max(), np.float32)[..., np.newaxis]
    return as_bytes(image * (1 + share * plane))


def blurred(image: Image, share: float) -> Image:
    """Blur with a Gaussian whose standard deviation is a share of the shorter side."""
    return cv2.GaussianBlur(image, (0, 0), share * side_of(image), borderType=cv2.BORDER_REFLECT_101).astype(np.uint8)


def noisy(image: Image, share: float, rng: np.random.Generator) -> Image:
    """Add independent Gaussian noise to each value; its standard deviation is a share of white."""
    return as_bytes(image + np.float32(share * WHITE) * rng.standard_normal(image.shape, np.float32))


def shifted(image: Image, angle: float, share: float) -> Image:
    """Shift by a share of the shorter side. angle: of the direction, in radians."""
    length = share * side_of(image)
    return warped(image, np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]]))


def rotated(image: Image, degrees: float) -> Image:
    """Rotate around the centre, counter-clockwise."""
    height, width = image.shape[:2]
    return warped(image, np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0), np.float64))


def _any_angle(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * np.pi))


KINDS: Mapping[str, Callable[[Image, float, np.random.Generator], Image]] = {
    "darker": lambda image, strength, _: scaled(image, 1 - strength),
    "brighter": lambda image, strength, _: scaled(image, 1 + strength),
    "light from one side": lambda image, strength, rng: lit_from_side(image, strength, _any_angle(rng)),
    "blur": lambda image, strength, _: blurred(image, strength),
    "noise": noisy,
    "shift": lambda image, strength, rng: shifted(image, _any_angle(rng), strength),
    "rotation": lambda image, strength, rng: rotated(image, strength * float(rng.choice([-1, 1]))),
}
"""How an image changes, by kind: functions of the image, the strength and a source of randomness."""
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "darker": (0.2, 0.4),
    "brighter": (0.2, 0.4),
    "light from one side": (0.15, 0.3),
    "blur": (0.004, 0.01),
    "noise": (0.02, 0.06),
    "shift": (0.02, 0.05),
    "rotation": (2.0, 5.0),
}
PERTURBATIONS = tuple(Perturbation(kind, strength) for kind, values in STRENGTHS.items() for strength in values)
"""The perturbations that robustness is measured under, the weaker of each kind first."""


@dataclass(frozen=True)
class PerturbedImages:
    """Some test images of a line, and how they are perturbed."""

    images: Mapping[str, str]
    """Digest of each image and its region of interest by image ID, see `Line.digests`."""
    perturbation: Perturbation
    """What changes."""

    def identity(self, line: Line) -> str:
        """Return a digest of everything that the perturbed pixels depend on."""
        levels = line.manifest.black_level, line.manifest.white_level
        return digest(
            [VERSION, sorted(self.images.items()), self.perturbation.kind, self.perturbation.strength, levels]
        )


def open_perturbed(line: Line, perturbed: PerturbedImages, fit: InputFit, cache_dir: Path) -> CachedShard:
    """Open perturbed images at the size of a network's input, made once per node for every model of that size.

    They are perturbed at their own resolution, before they are resized, and inside their regions of interest, which
    stay where they are.

    Args:
        line: The line.
        perturbed: The images.
        fit: Resize mode and size of the network's input.
        cache_dir: Folder of the cache on this node.

    Raises:
        IntegrityError: The line does not hold an image, or holds another file under its ID.
        RejectedImage: An image cannot be decoded.
    """
    images = perturbed.images

    def write(file: BinaryIO) -> Index:
        if differing := sorted(images.items() - line.digests(images, with_roi=True).items()):
            raise IntegrityError(f"{differing[0][0]} of {line.name} is not the image that was chosen")
        return index_of(written(file))

    def written(file: BinaryIO) -> Iterator[IndexRow]:
        for sample in line.images(images, splits=("test", "unlabelled")):
            roi = None if sample.roi is None else Roi.of(sample.roi)
            seen = fill_outside(perturbed.perturbation.apply(sample.pixels, sample.image_id), roi)
            file.write(to_network(seen, fit).data)
            yield sample.image_id, sample.height, sample.width, sample.group or sample.image_id, roi

    return cached_images(digest(["perturbed", perturbed.identity(line), asdict(fit)])[:32], fit, cache_dir, write)
