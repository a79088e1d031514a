"""Classify an anomaly: its type, a confidence, and the evidence in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybench.analysis.anomaly_types.evidence import describe
from raybench.analysis.anomaly_types.references import ReferenceBank
from raybench.analysis.anomaly_types.views import Image

Kind = Literal["defect", "lighting", "layout", "uncertain"]
KINDS: tuple[Kind, ...] = ("defect", "lighting", "layout")
ENOUGH = 0.45  # least probability of a type; below, the answer is "uncertain"


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
