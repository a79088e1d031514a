"""From what the witnesses say to a kind, with a probability.

Of each group of witnesses the one counts that most exceeds its limit: one is enough, and a kind of change that nobody
thought of still has one that sees it. The excesses, in log units, weigh into a multinomial logistic regression.
Its WEIGHTS are the same for all lines; `python -m benchmarks.signals --fit` finds them on images that no test sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from raybench.findings.signals.evidence import describe
from raybench.findings.signals.measure import WITNESSES, Measured
from raybench.findings.signals.references import References
from raybench.findings.signals.views import Floats, Image

Kind = Literal["defect", "lighting", "layout", "uncertain"]
KINDS: tuple[Kind, ...] = ("defect", "lighting", "layout")
GROUPS = ("light", "layout", "new")
LEAST, MOST = -1.5, 2.0  # log of an excess: further off it says no more
ENOUGH = 0.5  # of the probability: below, nobody knows

# By kind: constant; log excess by group; share of the difference that a change of light explains.
WEIGHTS: Mapping[Kind, tuple[float, ...]] = {
    "defect": (1.35, -1.34, -1.15, 0.21, -0.26),
    "layout": (0.12, -0.84, 2.11, 0.36, -1.08),
    "lighting": (-1.48, 2.18, -0.96, -0.58, 1.34),
}


@dataclass(frozen=True)
class Signal:
    """What an anomaly looks like. confidence: the probability of the likeliest kind, 0 to 1. evidence: in words."""

    kind: Kind
    confidence: float
    evidence: str


def signal(image: Image, heat: Floats | None, references: References) -> Signal:
    """What kind of anomaly a flagged image looks like. image: (H, W, 3) uint8 RGB. heat: (H, W) float32, where a model
    sees it, or None: it tells where to look, never what it is."""
    measured = references.measure(image)
    chances = probabilities(explain(measured, references.limits))
    likeliest = max(KINDS, key=lambda kind: chances[kind])
    evidence = describe(likeliest, measured, references, (image.shape[0], image.shape[1]), heat)
    confidence = chances[likeliest]
    if confidence >= ENOUGH:
        return Signal(likeliest, confidence, evidence)
    return Signal("uncertain", confidence, f"{likeliest}? {evidence}")


def explain(measured: Measured, limits: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """(1 + 3 + 1,) float64: what WEIGHTS weigh."""
    excess = dict.fromkeys(GROUPS, LEAST)
    for name, value in measured.values.items():
        group = WITNESSES[name].group
        excess[group] = max(excess[group], log_excess(value, limits[name]))
    return np.array([1.0, *excess.values(), measured.light.explained])


def log_excess(value: float, limit: float) -> float:
    """Above 0 where `value` is more than OK images of the line show."""
    return float(np.clip(np.log(max(value / limit, 1e-6)), LEAST, MOST))


def probabilities(explained: npt.NDArray[np.float64]) -> dict[Kind, float]:
    """By kind. explained: see `explain`."""
    logits = np.array([np.dot(WEIGHTS[kind], explained) for kind in KINDS])
    shares = np.exp(logits - logits.max())
    return dict(zip(KINDS, (shares / shares.sum()).tolist(), strict=True))
