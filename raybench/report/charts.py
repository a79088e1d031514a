"""The charts of a line: where its images lie against each model's threshold, and recall against false alarms.

Paths are in a square of SIDE units that the page stretches to the size of the chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raybench.analysis.flags import ScoredImage
from raybench.analysis.rows import FinishedModel
from raybench.metrics import curves

SIDE = 1000
SHOWN_ALARMS = 0.3
LABELS_APART = 5.5  # per cent of the chart's height
_SHOWN_EXCESS = (-2.0, 8.0)
_TICKS = (-2, -1, 0, 1, 2, 4, 8)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strip:
    """Where a line's images lie against the threshold of one model."""

    model: str
    ng: str
    """Path with a tick for each NG image."""
    ok: str
    unlabelled: str
    words: str
    """How many images of each label lie above the threshold."""


@dataclass(frozen=True)
class Curve:
    """Recall of one model against its false alarms, over all thresholds."""

    model: str
    path: str
    end: float
    """Where the curve leaves the chart, in per cent of its height from the top."""
    label: float
    """Where its name stands, in per cent from the top."""


@dataclass(frozen=True)
class OperatingPoint:
    """Recall and false alarms at the OK-only threshold with their intervals, in per cent from the left and the top."""

    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float


def excess_ticks() -> tuple[tuple[float, str], ...]:
    """Return position in per cent and text of the ticks below the strips."""
    return tuple((_place(tick) / SIDE * 100, f"{tick:g}") for tick in _TICKS)


def place_of_threshold() -> int:
    """Return where the threshold lies in every strip, from 0 to SIDE."""
    return _place(0.0)


def strips(seen: Sequence[ScoredImage], models: Iterable[str]) -> tuple[Strip, ...]:
    """Return a strip for each model that has scores, in the order of `models`.

    Args:
        seen: The line's images.
        models: The line's models.
    """
    return tuple(_strip(seen, model) for model in models if any(model in image.excess for image in seen))


def _strip(seen: Sequence[ScoredImage], model: str) -> Strip:
    by_label = {
        label: [image.excess[model] for image in seen if image.label == label and model in image.excess]
        for label in ("ng", "ok", "unknown")
    }
    names = {"ng": "NG", "ok": "OK", "unknown": "not labelled"}
    counts = (
        f"{sum(value > 0 for value in values)} of {len(values)} {names[label]}"
        for label, values in by_label.items()
        if values
    )
    return Strip(
        model,
        _tick_path(by_label["ng"], top=True),
        _tick_path(by_label["ok"], top=False),
        _tick_path(by_label["unknown"], top=False),
        f"above the threshold: {', '.join(counts)}",
    )


def _tick_path(values: Iterable[float], *, top: bool) -> str:
    return "".join(f"M{place} {40 if top else 520}v440" for place in sorted({_place(value) for value in values}))


def _place(excess: float) -> int:
    """Return where an excess lies from 0 to SIDE: in proportion near the threshold, logarithmic far from it."""
    low, high, here = (math.asinh(1.4 * value) for value in (*_SHOWN_EXCESS, excess))
    return round(SIDE * min(max((here - low) / (high - low), 0.0), 1.0))


def recall_curves(seen: Sequence[ScoredImage], models: Iterable[str]) -> tuple[Curve, ...]:
    """Return the curve of each model that has scores of OK and of NG images, the highest end first."""
    found = []
    for model in models:
        ok, ng = (
            np.array([image.excess[model] for image in seen if image.label == label and model in image.excess])
            for label in ("ok", "ng")
        )
        if len(ok) and len(ng):
            found.append((model, *_steps(ok, ng)))
    found.sort(key=lambda curve: curve[2])
    labels = _apart([end for _, _, end in found])
    return tuple(Curve(model, path, end, label) for (model, path, end), label in zip(found, labels, strict=True))


def _steps(ok: Floats, ng: Floats) -> tuple[str, float]:
    """Return the path of a curve and where it leaves the chart, in per cent from the top."""
    scores, place = np.unique(-np.concatenate([ok, ng]), return_inverse=True)  # the highest first
    normal = np.bincount(place[: len(ok)], minlength=len(scores)).astype(np.float64)
    anomalous = np.bincount(place[len(ok) :], minlength=len(scores)).astype(np.float64)
    alarms, recall = curves.shares(normal), curves.shares(anomalous)
    inside = alarms <= SHOWN_ALARMS
    across = np.rint(alarms[inside] / SHOWN_ALARMS * SIDE).astype(int)
    down = np.rint((1 - recall[inside]) * SIDE).astype(int)
    path, last = "M0 1000", (0, SIDE)
    for x, y in zip(across.tolist(), down.tolist(), strict=True):
        path += (f"H{x}" if x != last[0] else "") + (f"V{y}" if y != last[1] else "")
        last = (x, y)
    return f"{path}H{SIDE}", last[1] / SIDE * 100


def _apart(ends: Sequence[float]) -> list[float]:
    """Return where names stand so that they do not overlap. ends: ascending."""
    apart = min(LABELS_APART, 100 / max(len(ends), 1))
    labels: list[float] = []
    for end in ends:
        labels.append(max(end, labels[-1] + apart) if labels else end)
    for at in reversed(range(len(labels))):
        most = 100.0 if at == len(labels) - 1 else labels[at + 1] - apart
        labels[at] = min(labels[at], most)
    return [round(label, 1) for label in labels]


def operating_point(model: FinishedModel | None) -> OperatingPoint | None:
    """Return where the OK-only threshold puts a model, or None if recall or false alarms are unknown."""
    if model is None:
        return None
    recall, alarms = model.quality.recall, model.quality.false_alarm_rate
    ends = (recall.value, recall.low, recall.high, alarms.value, alarms.low, alarms.high)
    if None in ends:
        return None
    value, low, high, alarm, fewest, most = (float(end or 0.0) for end in ends)

    def across(rate: float) -> float:
        return round(min(rate / SHOWN_ALARMS, 1.0) * 100, 1)

    def down(share: float) -> float:
        return round((1 - share) * 100, 1)

    return OperatingPoint(across(alarm), down(value), across(fewest), across(most), down(high), down(low))
