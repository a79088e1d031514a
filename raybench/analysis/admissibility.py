"""Which models a line may run at all: limits of the experiment, and tests of thresholds.

Thresholds are tested on the OK images of the test split in both directions (`metrics.exchangeability`). With
Bonferroni's correction over the models of a line, a line on which nothing has changed loses a model in at most 2.5 % of
cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raybench.analysis.rows import BoardRow
from raybench.config.experiment import Limits
from raybench.detectors.weights.catalog import PERMISSIVE
from raybench.metrics.exchangeability import assess_threshold
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate

REFUSED = 0.025
"""Probability of refusing any threshold of a line on which nothing has changed."""


def refused_thresholds(
    rows: Mapping[str, BoardRow],
    scores: Mapping[str, Sequence[ImageScores]],
    held_out: Mapping[str, Sequence[ImageScores]],
) -> dict[str, str]:
    """Return why thresholds are refused, by model. The first seed counts, as its detector is the one that is used."""
    refused: dict[str, str] = {}
    for model, row in rows.items():
        if model not in held_out or row.threshold is None or row.quality is None:
            continue
        test = assess_threshold(held_out[model][0], scores[model][0], row.threshold)
        if test is None:
            continue
        limit = REFUSED / (2 * len(rows))
        rate, n = row.quality.false_alarm_rate.value or 0.0, row.quality.false_alarm_rate.n
        if test.too_many_alarms <= limit:
            refused[model] = (
                f"its threshold does not hold: {rate:.0%} false alarms on {n} OK test images, "
                f"{row.threshold.promised:.0%} promised (p = {test.too_many_alarms:.1g})"
            )
        elif test.too_low <= limit:
            refused[model] = (
                f"its threshold is too high: OK test images score below the held-back ones (p = {test.too_low:.1g}), "
                "so defects may score below the threshold too"
            )
    return refused


def change_note(refused: Mapping[str, str], rows: Mapping[str, BoardRow], drift: str) -> str:
    rates = [row.quality.false_alarm_rate.value or 0.0 for row in rows.values() if row.quality]
    why = f" The inspection agrees: {drift}." if drift else ""
    return (
        f"The OK images of the test split differ from those trained on: the thresholds of {len(refused)} of "
        f"{len(rows)} models are refused, with {min(rates):.0%} to {max(rates):.0%} false alarms.{why} Recall and "
        "false alarms mean little here. Set thresholds on OK test images (`threshold: {from: test_ok}`), or train on "
        "newer OK images."
    )


def broken_limits(row: BoardRow, limits: Limits, licences: Mapping[str, str]) -> str:
    """Return which limits a model breaks, in words; empty if it keeps all.

    A time that was taken on a busy machine breaks none: on a quiet one it may be shorter.
    """
    broken = []
    if limits.p95_ms is not None and (row.speed is None or row.speed.p95_ms > limits.p95_ms):
        if row.speed is None:
            broken.append(f"the 95th percentile of its time is unknown, the limit {limits.p95_ms:g} ms")
        elif not row.speed.is_disturbed:
            broken.append(
                f"the 95th percentile of its time is {row.speed.p95_ms:.3g} ms, the limit {limits.p95_ms:g} ms"
            )
    if limits.mb is not None and (row.size is None or row.size.disk_mb > limits.mb):
        found = f"{row.size.disk_mb:.3g} MB" if row.size else "unknown"
        broken.append(f"its size is {found}, the limit {limits.mb:g} MB")
    rate = row.quality.false_alarm_rate if row.quality else Estimate(None)
    if limits.false_alarm_rate is not None and (rate.low is None or rate.low > limits.false_alarm_rate):
        found = "unknown" if rate.value is None else f"{rate.value:.0%}"
        broken.append(f"its false-alarm rate is {found}, the limit {limits.false_alarm_rate:g}")
    if limits.licence is not None:
        strict = [f"{what} ({licence})" for what, licence in licences.items() if licence not in PERMISSIVE]
        if strict or not licences:
            broken.append(f"the licence of {' and '.join(strict) or 'its code (unknown)'} is not {limits.licence}")
    return "; ".join(broken)
