from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.analysis.watch import watch
from tests.support.batches import darker, made_batch


def test_a_stable_line_is_quiet() -> None:
    found = watch("night", [made_batch(day) for day in range(40)])
    assert not found.changed
    assert found.threshold.state == "holds"
    assert found.threshold.flagged.value == pytest.approx(0.04)
    assert max(found.evidence.values()) < 1
    assert "no lasting change" in str(found)
    assert len(found.to_frame()) == 40


def test_a_darker_lamp_is_found_dated_and_named() -> None:
    days = [made_batch(day) for day in range(20)] + [darker(made_batch(day)) for day in range(20, 32)]
    found = watch("night", days)
    (change,) = found.changes
    assert (change.what, change.direction) == ("brightness", "lower")
    assert change.since == days[20].at
    assert change.earliest <= change.since <= change.latest <= change.found
    assert change.before - change.after == pytest.approx(0.1, abs=0.01)
    assert found.types == {"defect": (20, 0), "lighting": (0, 36)}
    assert found.changed
    assert found.threshold.state == "holds"
    assert watch("night", days[20:]).changes == ()


def test_what_is_clear_but_slight_is_no_change() -> None:
    days = [made_batch(day) for day in range(60)]
    values = {
        "brightness": [0.5 + 0.001 * (at >= 30) + day.quantiles["brightness"][3] / 1e6 for at, day in enumerate(days)]
    }
    slight = [
        replace(day, quantiles={**day.quantiles, "brightness": tuple(value + 0.02 * part for part in range(21))})
        for day, value in zip(days, values["brightness"], strict=True)
    ]
    found = watch("night", slight)
    assert found.evidence["brightness"] > 1
    assert not found.changed


def test_the_threshold_is_tested_both_ways() -> None:
    many = [made_batch(day) for day in range(10)] + [made_batch(day, flagged=20) for day in range(10, 14)]
    found = watch("night", many)
    assert (found.threshold.state, found.threshold.since) == ("too many", many[10].at)
    assert found.threshold.flagged.value == pytest.approx(0.4)
    assert found.changed
    few = watch("night", [made_batch(day, flagged=0) for day in range(40)])
    assert few.threshold.state == "too few"
    other = replace(many[0].threshold, value=9.0)
    moved = watch("night", [*many, made_batch(20, threshold=other)])
    assert moved.threshold.state == "holds"
    nothing = replace(other, promised=1.0)
    assert watch("night", [made_batch(0, threshold=nothing)]).threshold.state == "unknown"
    assert (
        watch("night", [made_batch(0, threshold=replace(other, value=None), flagged=None)]).threshold.state == "unknown"
    )


def test_odd_sizes_are_an_alarm_at_once_and_tiny_batches_are_not_tested() -> None:
    assert watch("night", [made_batch(0, odd_sizes=10)]).changed
    assert not watch("night", [made_batch(0, odd_sizes=1)]).changed
    days = [made_batch(day) for day in range(20)] + [darker(made_batch(day, images=3)) for day in range(20, 40)]
    assert watch("night", days).changes == ()
