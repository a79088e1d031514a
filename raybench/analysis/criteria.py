"""What a model is worth to a line besides telling NG from OK images: criteria from 0 to 1, weighted.

recall      at the OK-only threshold, less what the false-alarm rate exceeds its budget by
heat_map    the mean of AU-PRO and of what noise around defects and noise on OK images leave of 1; see `heat_words`
speed       1 for the fastest of the line's models, 0.5 at ten times its time per image, 0 at a hundred times
size        likewise, by the bytes of the saved detector
non_square  1 where keeping the aspect does not cost image AUROC against squashed images, 0 where it costs 0.1; 0 for a
            model that squashes; left out on square lines

A criterion that is not known is left out, and the weights of the others count in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raybench.analysis.rows import BoardRow
from raybench.data.geometry import is_square

_LOST_AT = 0.1

Criteria = Mapping[str, float]
"""By criterion, from 0 to 1; those that are known."""


def criteria(rows: Sequence[BoardRow], budget: float) -> dict[str, Criteria]:
    """By model, of the rows of one line that have numbers. budget: for false alarms."""
    done = [row for row in rows if row.quality]
    fastest = min((row.speed.p50_ms for row in done if row.speed), default=0.0)
    smallest = min((row.size.disk_mb for row in done if row.size), default=0.0)
    found = {
        row.model: {
            "recall": _recall(row, budget),
            "heat_map": row.heat.worth if row.heat else None,
            "speed": _beside(row.speed.p50_ms, fastest) if row.speed else None,
            "size": _beside(row.size.disk_mb, smallest) if row.size else None,
            "non_square": _non_square(row),
        }
        for row in done
    }
    return {model: {name: value for name, value in by.items() if value is not None} for model, by in found.items()}


def utility(found: Criteria, weights: Mapping[str, float]) -> float:
    """The weighted mean, from 0 to 1; 0 where nothing that counts is known."""
    total = sum(weights[name] for name in found)
    return sum(weights[name] * value for name, value in found.items()) / total if total else 0.0


def _recall(row: BoardRow, budget: float) -> float | None:
    if row.quality is None or row.quality.recall.value is None:
        return None
    rate = row.quality.false_alarm_rate.value or 0.0
    return max(0.0, row.quality.recall.value - max(0.0, rate - budget))


def _beside(value: float, least: float) -> float:
    return max(0.0, 1 - math.log10(value / least) / 2) if least > 0 else 1.0


def _non_square(row: BoardRow) -> float | None:
    size, gain = row.input, row.non_square.gain
    if size is None or is_square(size.source_height, size.source_width):
        return None
    if size.mode == "squash":
        return 0.0
    return min(1.0, max(0.0, 1 + gain.value / _LOST_AT)) if gain and gain.value is not None else 1.0
