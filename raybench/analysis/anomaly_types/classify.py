"""Classify an anomaly: its type, a confidence, and the evidence in words and in pixels of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from raybench.analysis.anomaly_types.features import FEATURES, Features, Group
from raybench.analysis.anomaly_types.light import LightChange
from raybench.analysis.anomaly_types.parts import Spot
from raybench.analysis.anomaly_types.references import ReferenceBank
from raybench.analysis.anomaly_types.views import Image

Kind = Literal["defect", "lighting", "layout", "uncertain"]
KINDS: tuple[Kind, ...] = ("defect", "lighting", "layout")
ENOUGH = 0.45  # least probability of a type; below, the answer is "uncertain"
_GROUPS: Mapping[str, Group] = {"lighting": "light", "layout": "layout", "defect": "new"}


@dataclass(frozen=True)
class AnomalyType:
    """The type of an anomaly."""

    kind: Kind
    confidence: float
    """Probability of the most likely type, 0 to 1."""
    evidence: str
    """The evidence for that type, in words."""


def classify(image: Image, references: ReferenceBank) -> AnomalyType:
    """Classify the anomaly of a flagged image.

    Args:
        image: (H, W, 3) uint8 RGB.
        references: Reference bank of the image's line.
    """
    features = references.extract(image)
    probabilities = references.classifier.probabilities(features)
    likeliest = max(KINDS, key=lambda kind: probabilities[kind])
    scale = (image.shape[0] / references.size[0], image.shape[1] / references.size[1])
    evidence = describe(likeliest, features, references.classifier.excess(features), scale)
    if probabilities[likeliest] >= ENOUGH:
        return AnomalyType(likeliest, probabilities[likeliest], evidence)
    return AnomalyType("uncertain", probabilities[likeliest], f"{likeliest}? {evidence}")


def describe(kind: str, features: Features, excess: npt.NDArray[np.float64], scale: tuple[float, float]) -> str:
    """Describe the strongest evidence for a type of anomaly.

    Args:
        kind: Type of the anomaly.
        features: Features of the image.
        excess: (F,) float64 in the order of FEATURES, above 0 where the image differs more than OK images do.
        scale: Pixels of the image per working pixel, down and across.

    Returns:
        A sentence without a full stop.
    """
    by_name = dict(zip(FEATURES, excess.tolist(), strict=True))
    strongest = max((name for name in by_name if FEATURES[name].group == _GROUPS[kind]), key=by_name.__getitem__)
    description = _Description(features, scale)
    if by_name[strongest] > 0:
        return description.of(strongest)
    if kind != "defect":
        return f"weak signs only: {description.of(strongest)}"
    return "neither light nor layout differs from OK images in a way that explains it"


class _Description:
    """Describes the features of one image."""

    def __init__(self, features: Features, scale: tuple[float, float]) -> None:
        self.features, self.scale = features, scale

    def of(self, name: str) -> str:
        """Describe the feature `name`."""
        words: Mapping[str, Callable[[], str]] = {
            "gain": self.brightness,
            "bend": lambda: (
                f"brightness changes smoothly across the image (by {_percent(self.light.bend)}){self.share}"
            ),
            "gamma": lambda: f"a change of contrast (gamma {np.exp(self.light.gamma):.2f}){self.share}",
            "spot": lambda: f"a wide, soft change of brightness (by {_percent(self.light.spot)} over the image)",
            "tint": self.tint,
            "levels": self.levels,
            "levels_here": self.levels,
            "moved": self.move,
            "turned": lambda: "straight edges run in other directions than in OK images: rotated",
            "missing": lambda: f"a part is missing at {self.at(self.features.missing)}",
            "displaced": lambda: f"what is at {self.at(self.features.displaced)} lies elsewhere in OK images",
            "new": self.new,
            "new_share": self.new,
            "tint_few": lambda: "a few places have another colour than the rest of the image",
            "levels_few": lambda: "a few places have a brightness that is nowhere in OK images",
            "left_few": lambda: "a few places differ in brightness from OK images, the rest does not",
            "residual_few": lambda: f"a few places differ from OK images, most near {self.at(self.features.new.spot)}",
        }
        return words[name]()

    @property
    def light(self) -> LightChange:
        return self.features.light

    @property
    def share(self) -> str:
        return f" explains {self.light.explained:.0%} of the difference"

    def at(self, spot: Spot) -> str:
        return _point(spot.y * self.scale[0], spot.x * self.scale[1])

    def brightness(self) -> str:
        return f"a smooth change of brightness (×{np.exp(self.light.gain):.2f}){self.share}"

    def tint(self) -> str:
        red, blue = np.exp(self.features.tint)
        return f"a colour cast: red ×{red:.2f} and blue ×{blue:.2f} against green"

    def levels(self) -> str:
        away = self.features.values["levels_here"]
        return f"most of the image has a brightness that no OK image has there (by {_percent(away)} and more)"

    def move(self) -> str:
        move = self.features.move
        height, width = self.features.new.beyond.shape
        dy, dx = move.dy * height * self.scale[0], move.dx * width * self.scale[1]
        ways = [f"{abs(dy):.0f} px {'down' if dy > 0 else 'up'}"] if abs(dy) >= 1 else []
        ways += [f"{abs(dx):.0f} px to the {'right' if dx > 0 else 'left'}"] if abs(dx) >= 1 else []
        shift = f"shifted by {' and '.join(ways)}" if ways else ""
        turn = f"rotated by {abs(move.pose.turned):.0f}°" if move.pose.turned else ""
        flip = move.pose.name if move.pose.flip is not None else ""
        fit = f" (fits an OK image to {move.fit:.2f}, in place to {move.still:.2f})"
        return ", ".join(part for part in (flip, turn, shift) if part) + fit

    def new(self) -> str:
        new = self.features.new
        width, height = new.width * self.scale[1], new.height * self.scale[0]
        return f"local new structure of {width:.0f}×{height:.0f} px at {self.at(new.spot)}"


def _percent(log_change: float) -> str:
    return f"{np.expm1(log_change):.0%}"


def _point(y: float, x: float) -> str:
    return f"({x:.0f}, {y:.0f})"
