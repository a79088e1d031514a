"""What kind of anomaly an image looks like, how surely, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybench.analysis.anomaly_types.evidence import describe
from raybench.analysis.anomaly_types.references import ReferenceBank
from raybench.analysis.anomaly_types.views import Image

Kind = Literal["defect", "lighting", "layout", "uncertain"]
KINDS: tuple[Kind, ...] = ("defect", "lighting", "layout")
ENOUGH = 0.45  # of the probability: below, nobody knows


@dataclass(frozen=True)
class AnomalyType:
    """What an anomaly looks like. confidence: the probability of the likeliest kind, 0 to 1. evidence: in words."""

    kind: Kind
    confidence: float
    evidence: str


def classify(image: Image, references: ReferenceBank) -> AnomalyType:
    """What kind of anomaly a flagged image looks like. image: (H, W, 3) uint8 RGB."""
    measured = references.measure(image)
    chances = references.judge.chances(measured)
    likeliest = max(KINDS, key=lambda kind: chances[kind])
    scale = (image.shape[0] / references.size[0], image.shape[1] / references.size[1])
    evidence = describe(likeliest, measured, references.judge.excess(measured), scale)
    if chances[likeliest] >= ENOUGH:
        return AnomalyType(likeliest, chances[likeliest], evidence)
    return AnomalyType("uncertain", chances[likeliest], f"{likeliest}? {evidence}")
