"""Made histories of a line."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from raybench.metrics.numbers import Threshold
from raybench.runs.history import QUANTILES, Batch

THRESHOLD = Threshold(3.0, 100, 0.05, 5 / 101, 0.0)


def made_batch(day: int, **changes: object) -> Batch:
    """The batch of a day: 50 images with scores from 0 on, and their light."""
    rng = np.random.default_rng(day)
    values = {"scores": rng.normal(0, 1, 50), "brightness": rng.normal(0.6, 0.02, 50)}
    fields: dict[str, object] = {
        "at": (datetime(2026, 3, 1, 6, tzinfo=UTC) + timedelta(days=day)).isoformat(timespec="seconds"),
        "prediction": f"day-{day}", "line": "bottle", "model": "padim", "detector_id": "d", "unit_id": f"u{day}",
        "images": 50, "threshold": THRESHOLD, "flagged": 2, "odd_sizes": 0, "rejected": 0,
        "quantiles": {name: tuple(np.quantile(found, QUANTILES).tolist()) for name, found in values.items()},
        "measured": 50, "types": {"defect": 1}, "sample": (f"{day:04}a", f"{day:04}b"),
    }  # fmt: skip
    return Batch(**fields | changes)  # type: ignore[arg-type]


def darker(batch: Batch, by: float = 0.1) -> Batch:
    """The batch with a lamp that has lost so much."""
    dark = tuple(value - by for value in batch.quantiles["brightness"])
    return replace(batch, quantiles={**batch.quantiles, "brightness": dark}, types={"lighting": 3})
