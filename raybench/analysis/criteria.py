"""The utility of a model for a line, beyond image AUROC: a weighted mean of criteria from 0 to 1.

recall      recall at the OK-only threshold, minus the excess of the false-alarm rate over its budget
heat_map    mean of AU-PRO, 1 − noise around defects and 1 − noise on OK images; see `heatmap_grade`
speed       1 for the fastest of the line's models, 0.5 at ten times its time per image, 0 at a hundred times
size        the same scale, by the bytes of the saved detector
non_square  1 where keeping the aspect costs no image AUROC compared with squashed images, 0 where it costs 0.1; 0 for a
            model that squashes; left out on square lines

An unknown criterion is left out, and the weights of the others are renormalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raybench.analysis.rows import BoardRow
from raybench.data.geometry import is_square

_MAX_LOSS = 0.1  # image AUROC: a loss this large makes the criterion 0

Criteria = Mapping[str, float]
"""Value from 0 to 1 by criterion; unknown criteria are left out."""


def criteria(rows: Sequence[BoardRow], budget: float) -> dict[str, Criteria]:
    """Return the criteria of each finished model of a line.

    Args:
        rows: Rows of one line.
        budget: False-alarm budget of the line.
    """
    done = [row for row in rows if row.quality]
    fastest = min((row.speed.p50_ms for row in done if row.speed), default=0.0)
    smallest = min((row.size.disk_mb for row in done if row.size), default=0.0)
    by_model = {
        row.model: {
            "recall": _recall(row, budget),
            "heat_map": row.heat.worth if row.heat else None,
            "speed": _relative(row.speed.p50_ms, fastest) if row.speed else None,
            "size": _relative(row.size.disk_mb, smallest) if row.size else None,
            "non_square": _non_square(row),
        }
        for row in done
    }
    return {
        model: {name: value for name, value in values.items() if value is not None}
        for model, values in by_model.items()
    }


def utility(values: Criteria, weights: Mapping[str, float]) -> float:
    """Return the weighted mean of the known criteria, from 0 to 1; 0 if their weights add up to 0."""
    total = sum(weights[name] for name in values)
    return sum(weights[name] * value for name, value in values.items()) / total if total else 0.0


def _recall(row: BoardRow, budget: float) -> float | None:
    if row.quality is None or row.quality.recall.value is None:
        return None
    rate = row.quality.false_alarm_rate.value or 0.0
    return max(0.0, row.quality.recall.value - max(0.0, rate - budget))


def _relative(value: float, least: float) -> float:
    return max(0.0, 1 - math.log10(value / least) / 2) if least > 0 else 1.0


def _non_square(row: BoardRow) -> float | None:
    size, gain = row.input, row.non_square.gain
    if size is None or is_square(size.source_height, size.source_width):
        return None
    if size.mode == "squash":
        return 0.0
    return min(1.0, max(0.0, 1 + gain.value / _MAX_LOSS)) if gain and gain.value is not None else 1.0
