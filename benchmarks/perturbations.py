"""Anomalies of a known kind, made from OK images: what tells whether a signal is right where nobody has labelled it.

Sizes are shares of the image's shorter side, so that a perturbation looks alike on images of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Perturb = Callable[[Image, np.random.Generator], Image]

LEAST_CHANGE = 12.0  # grey levels: what changes less cannot be seen (gamma on a binarised image)
_TRIES = 20


def perturb(image: Image, name: str, rng: np.random.Generator) -> Image | None:
    """(H, W, 3) uint8 RGB, `name` being one of PERTURBATIONS; None where it cannot be seen on this image."""
    for _ in range(_TRIES):
        made = PERTURBATIONS[name](image, rng)
        if _change(image, made) >= LEAST_CHANGE:
            return made
    return None


def _change(image: Image, made: Image) -> float:
    """The mean difference over the hundredth of the pixels that change most, in grey levels."""
    difference = np.abs(made.astype(np.int16) - image).max(axis=2).ravel()
    count = max(1, difference.size // 100)
    return float(np.partition(difference, -count)[-count:].mean())


def _side(image: Image) -> int:
    return int(min(image.shape[0], image.shape[1]))


def _either(rng: np.random.Generator, low: tuple[float, float], high: tuple[float, float]) -> float:
    return float(rng.uniform(*(low if rng.random() < 0.5 else high)))


def _bytes(values: npt.NDArray[np.floating]) -> Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _plane(image: Image, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(H, W, 1): from -1 to 1 across the image, in any direction."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = np.cos(angle) * x + np.sin(angle) * y
    return np.asarray(plane / np.abs(plane).max(), np.float32)[..., np.newaxis]


def gain(image: Image, rng: np.random.Generator) -> Image:
    return _bytes(image * _either(rng, (0.5, 0.78), (1.28, 1.7)))


def gamma(image: Image, rng: np.random.Generator) -> Image:
    return _bytes(255 * (image / 255) ** _either(rng, (0.5, 0.72), (1.4, 2.0)))


def gradient(image: Image, rng: np.random.Generator) -> Image:
    return _bytes(image * (1 + rng.uniform(0.3, 0.55) * _plane(image, rng)))


def cast(image: Image, rng: np.random.Generator) -> Image:
    """A colour cast: red against blue."""
    red = _either(rng, (0.65, 0.82), (1.2, 1.45))
    return _bytes(image * np.array([red, 1.0, 1 / red]))


def glare(image: Image, rng: np.random.Generator) -> Image:
    """A wide, soft, bright spot."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    sigma = rng.uniform(0.18, 0.32) * _side(image)
    at_y, at_x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
    spot = np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * sigma**2))
    return _bytes(image + rng.uniform(70, 140) * spot[..., np.newaxis])


def vignette(image: Image, rng: np.random.Generator) -> Image:
    """Dark towards the corners."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return _bytes(image * (1 - rng.uniform(0.35, 0.6) * (x**2 + y**2) / 2)[..., np.newaxis])


def haze(image: Image, rng: np.random.Generator) -> Image:
    """Stray light: brighter and with less contrast."""
    share = rng.uniform(0.25, 0.5)
    return _bytes(image * (1 - share) + 200 * share)


def _warped(image: Image, matrix: npt.NDArray[np.float64]) -> Image:
    size = image.shape[1::-1]
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)


def shift(image: Image, rng: np.random.Generator) -> Image:
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.18) * _side(image)
    return _warped(image, np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]]))


def rotate(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    angle = _either(rng, (-18, -5), (5, 18))
    return _warped(image, np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0), np.float64))


def mirror(image: Image, rng: np.random.Generator) -> Image:
    return np.ascontiguousarray(image[:, ::-1])


def turn(image: Image, rng: np.random.Generator) -> Image:
    """Upside down."""
    return np.ascontiguousarray(image[::-1, ::-1])


def _boxes(image: Image, rng: np.random.Generator, count: int, share: tuple[float, float]) -> list[tuple[int, int]]:
    """`count` top left corners and the box's (height, width) at the end: of 30 random boxes apart from each other the
    most structured ones."""
    height, width = image.shape[:2]
    box_h, box_w = (int(rng.uniform(*share) * _side(image)) for _ in range(2))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    energy = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    tops, lefts = rng.integers(0, height - box_h, 30), rng.integers(0, width - box_w, 30)
    corners = [(int(top), int(left)) for top, left in zip(tops, lefts, strict=True)]
    corners.sort(key=lambda at: -float(energy[at[0] : at[0] + box_h, at[1] : at[1] + box_w].mean()))
    chosen: list[tuple[int, int]] = []
    for top, left in corners:
        if all(abs(top - other[0]) >= box_h or abs(left - other[1]) >= box_w for other in chosen):
            chosen.append((top, left))
    return [*chosen[:count], (box_h, box_w)]


def erase(image: Image, rng: np.random.Generator) -> Image:
    """A structured part is gone: what surrounds it goes on."""
    (top, left), (box_h, box_w) = _boxes(image, rng, 1, (0.16, 0.3))
    scale = min(1.0, 160 / _side(image))  # inpainting is slow, and a missing part is smooth
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[top : top + box_h, left : left + box_w] = 255
    filled = cv2.inpaint(
        small, cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_NEAREST), 3, cv2.INPAINT_TELEA
    )
    large = cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(mask[..., np.newaxis] > 0, large, image).astype(np.uint8)


def swap(image: Image, rng: np.random.Generator) -> Image:
    """Two parts have changed places."""
    found = _boxes(image, rng, 2, (0.16, 0.28))
    if len(found) < 3:
        return image
    (top, left), (to_top, to_left), (box_h, box_w) = found
    made = image.copy()
    made[top : top + box_h, left : left + box_w] = image[to_top : to_top + box_h, to_left : to_left + box_w]
    made[to_top : to_top + box_h, to_left : to_left + box_w] = image[top : top + box_h, left : left + box_w]
    return made


def extra(image: Image, rng: np.random.Generator) -> Image:
    """A structured part is there once more, somewhere else."""
    found = _boxes(image, rng, 1, (0.16, 0.28))
    (top, left), (box_h, box_w) = found
    to_top, to_left = (int(rng.integers(0, side - box)) for side, box in zip(image.shape, (box_h, box_w), strict=False))
    made = image.copy()
    made[to_top : to_top + box_h, to_left : to_left + box_w] = image[top : top + box_h, left : left + box_w]
    return made


def slip(image: Image, rng: np.random.Generator) -> Image:
    """The lower half lies to the side of where it should."""
    height, width = image.shape[:2]
    middle = int(rng.uniform(0.4, 0.6) * height)
    aside = _either(rng, (-0.14, -0.07), (0.07, 0.14)) * width
    made = image.copy()
    made[middle:] = _warped(image, np.array([[1, 0, aside], [0, 1, 0]]))[middle:]
    return made


def _tone(image: Image, rng: np.random.Generator, at: tuple[int, int]) -> tuple[int, int, int]:
    """A tone that stands out where it is put."""
    around = image[max(0, at[1] - 8) : at[1] + 8, max(0, at[0] - 8) : at[0] + 8]
    mean = float(around.mean())
    up = mean < 75 or (mean < 180 and rng.random() < 0.5)
    tone = int(np.clip(mean + rng.uniform(60, 110) * (1 if up else -1), 0, 255))
    return tone, tone, tone


def _place(image: Image, rng: np.random.Generator, margin: float = 0.15) -> tuple[int, int]:
    height, width = image.shape[:2]
    return int(rng.uniform(margin, 1 - margin) * width), int(rng.uniform(margin, 1 - margin) * height)


def scratch(image: Image, rng: np.random.Generator) -> Image:
    """A thin line, nearly straight."""
    made, start = image.copy(), _place(image, rng)
    length, angle = rng.uniform(0.12, 0.4) * _side(image), rng.uniform(0, 2 * np.pi)
    angles = angle + rng.normal(0, 0.15, 6).cumsum()
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * length / 6
    points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
    thickness = max(1, round(rng.uniform(0.006, 0.012) * _side(image)))
    return cv2.polylines(made, [points], False, _tone(image, rng, start), thickness, cv2.LINE_AA).astype(np.uint8)


def blob(image: Image, rng: np.random.Generator) -> Image:
    """A spot with an uneven, sharp edge."""
    made, centre = image.copy(), _place(image, rng)
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radii = rng.uniform(0.02, 0.06) * _side(image) * rng.uniform(0.7, 1.3, 14)
    points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, np.newaxis]
    return cv2.fillPoly(made, [np.rint(points).astype(np.int32)], _tone(image, rng, centre), cv2.LINE_AA).astype(
        np.uint8
    )


def stain(image: Image, rng: np.random.Generator) -> Image:
    """A spot with a soft edge through which the ground can be seen."""
    height, width = image.shape[:2]
    centre, radius = _place(image, rng), rng.uniform(0.04, 0.09) * _side(image)
    mask = np.zeros((height, width), np.float32)
    axes = (max(1, int(radius)), max(1, int(radius * rng.uniform(0.6, 1.0))))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), radius * 0.2)[..., np.newaxis].astype(np.float32) * rng.uniform(0.5, 0.8)
    return _bytes(image * (1 - mask) + np.array(_tone(image, rng, centre)) * mask)


def crack(image: Image, rng: np.random.Generator) -> Image:
    """A thin line that wanders and branches."""
    made, start = image.copy(), _place(image, rng)
    tone, angle = _tone(image, rng, start), rng.uniform(0, 2 * np.pi)
    thickness = max(1, round(0.005 * _side(image)))
    for branch in (0.0, rng.choice([-0.9, 0.9])):
        angles = angle + branch + rng.normal(0, 0.5, 14)
        steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.015, 0.035) * _side(image)
        points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
        cv2.polylines(made, [points], False, tone, thickness, cv2.LINE_AA)
    return made


def specks(image: Image, rng: np.random.Generator) -> Image:
    """A handful of small dots close together: dust, pores."""
    made, centre = image.copy(), _place(image, rng)
    tone = _tone(image, rng, centre)
    for _ in range(rng.integers(4, 10)):
        x, y = np.rint(centre + rng.normal(0, 0.05, 2) * _side(image)).astype(int).tolist()
        cv2.circle(made, (x, y), max(1, round(rng.uniform(0.006, 0.016) * _side(image))), tone, -1, cv2.LINE_AA)
    return made


def hair(image: Image, rng: np.random.Generator) -> Image:
    """A thin, smooth curve."""
    made, start = image.copy(), _place(image, rng)
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, _either(rng, (-4, -1.5), (1.5, 4)), 24)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.15, 0.4) * _side(image) / 24
    points = np.rint(start + np.vstack([[0, 0], steps.cumsum(0)])).astype(np.int32)
    thickness = max(1, round(0.006 * _side(image)))
    return cv2.polylines(made, [points], False, _tone(image, rng, start), thickness, cv2.LINE_AA).astype(np.uint8)


def chip(image: Image, rng: np.random.Generator) -> Image:
    """A facet with straight, sharp edges, lit on one side."""
    made, centre = image.copy(), _place(image, rng)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 4))
    radii = rng.uniform(0.03, 0.06) * _side(image)
    points = np.rint(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii).astype(np.int32)
    for half, factor in ((points[:3], 1.0), (points[[0, 2, 3]], 0.7)):
        tone = tuple(int(value * factor) for value in _tone(image, rng, centre))
        cv2.fillPoly(made, [half], tone, cv2.LINE_AA)
    return made


PERTURBATIONS: Mapping[str, Perturb] = {
    perturbation.__name__: perturbation
    for perturbation in (
        *(gain, gamma, gradient, cast, glare, vignette, haze),
        *(shift, rotate, mirror, turn, erase, swap, extra, slip),
        *(scratch, blob, stain, crack, specks, hair, chip),
    )
}
NAMED: Mapping[str, tuple[str, ...]] = {  # what the constants of the rule are fitted on
    "lighting": ("gain", "gamma", "gradient", "cast", "glare"),
    "layout": ("shift", "rotate", "mirror", "turn", "erase", "swap"),
    "defect": ("scratch", "blob", "stain", "crack", "specks"),
}
LEFT_OUT: Mapping[str, tuple[str, ...]] = {  # what they are not
    "lighting": ("vignette", "haze"),
    "layout": ("extra", "slip"),
    "defect": ("hair", "chip"),
}
