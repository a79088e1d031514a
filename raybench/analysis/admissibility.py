"""Which models a line may run at all: limits of the experiment, and tests of thresholds.

Thresholds are tested on the OK images of the test split in both directions (`metrics.exchangeability`). With
Bonferroni's correction over the models of a line, a line on which nothing has changed loses a model in at most 2.5 % of
cases. Models with the same scores count as one, so a copy changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raybench.analysis.rows import FinishedModel
from raybench.config.experiment import Limits
from raybench.detectors.weights.catalog import PERMISSIVE
from raybench.metrics.exchangeability import ThresholdTest, assess_threshold
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate, Threshold

REFUSED = 0.025
"""Probability of refusing any threshold of a line on which nothing has changed."""


def refused_thresholds(
    finished: Mapping[str, FinishedModel],
    scores: Mapping[str, Sequence[ImageScores]],
    held_out: Mapping[str, Sequence[ImageScores]],
) -> dict[str, str]:
    """Return why thresholds are refused, by model. The first seed counts, as its detector is the one that is used."""
    refused: dict[str, str] = {}
    models = count_distinct(finished, scores)
    for model, found in finished.items():
        threshold, alarms = found.trained.threshold, found.quality.false_alarm_rate
        test = assess_threshold(held_out[model][0], scores[model][0], threshold) if model in held_out else None
        if text := refusal(threshold, alarms, test, models):
            refused[model] = text
    return refused


def refusal(threshold: Threshold, alarms: Estimate, test: ThresholdTest | None, models: int = 1) -> str:
    """Return why a threshold is refused, in words; empty if it is not.

    Args:
        threshold: The threshold.
        alarms: Its false-alarm rate on OK test images.
        test: Its test; None if it could not be tested.
        models: Number of models whose thresholds are tested.
    """
    limit = REFUSED / (2 * models)
    if test and test.too_many_alarms <= limit:
        return (
            f"its threshold does not hold: {alarms.value or 0.0:.0%} false alarms on {alarms.n} OK test "
            f"images, {threshold.promised:.0%} promised (p = {test.too_many_alarms:.1g})"
        )
    if test and test.too_low <= limit:
        return (
            f"its threshold is too high: OK test images score below the held-back ones (p = {test.too_low:.1g}), "
            "so defects may score below the threshold too"
        )
    return ""


def count_distinct(models: Iterable[str], scores: Mapping[str, Sequence[ImageScores]]) -> int:
    """Count models that differ in some score of their first seed."""
    return len({scores[model][0].scores.tobytes() for model in models})


def change_note(refused: Mapping[str, str], finished: Mapping[str, FinishedModel], drift: str) -> str:
    """Say that a line has changed since training."""
    rates = [found.quality.false_alarm_rate.value or 0.0 for found in finished.values()]
    why = f" The inspection agrees: {drift}." if drift else ""
    return (
        f"The OK images of the test split differ from those trained on: the thresholds of {len(refused)} of "
        f"{len(finished)} models are refused, with {min(rates):.0%} to {max(rates):.0%} false alarms.{why} Recall and "
        "false alarms mean little here. Set thresholds on OK test images (`threshold: {from: test_ok}`), or train on "
        "newer OK images."
    )


def unknown_times(finished: Mapping[str, FinishedModel], limits: Limits) -> str:
    """Say of which models nothing shows whether they keep the limit of time, because the machine was busy."""
    if limits.p95_ms is None:
        return ""
    speeds = {model: found.measured.speed for model, found in finished.items()}
    late = [
        f"{model} ({speed.p95_ms:.3g} ms)"
        for model, speed in speeds.items()
        if speed.is_disturbed and speed.p95_ms > limits.p95_ms
    ]
    if not late:
        return ""
    return (
        f"Whether {', '.join(late)} keep{'s' * (len(late) == 1)} the limit of {limits.p95_ms:g} ms is not known: times "
        "were taken on a busy machine, and exclude no model."
    )


def broken_limits(model: FinishedModel, limits: Limits, licences: Mapping[str, str]) -> str:
    """Return which limits a model breaks, in words; empty if it keeps all.

    A time that was taken on a busy machine breaks none: on a quiet one it may be shorter.
    """
    speed, disk_mb, rate = model.measured.speed, model.measured.size.disk_mb, model.quality.false_alarm_rate
    broken = []
    if limits.p95_ms is not None and speed.p95_ms > limits.p95_ms and not speed.is_disturbed:
        broken.append(f"the 95th percentile of its time is {speed.p95_ms:.3g} ms, the limit {limits.p95_ms:g} ms")
    if limits.mb is not None and disk_mb > limits.mb:
        broken.append(f"its size is {disk_mb:.3g} MB, the limit {limits.mb:g} MB")
    if limits.false_alarm_rate is not None and (rate.low is None or rate.low > limits.false_alarm_rate):
        found = "unknown" if rate.value is None else f"{rate.value:.0%}"
        broken.append(f"its false-alarm rate is {found}, the limit {limits.false_alarm_rate:g}")
    if limits.licence is not None:
        strict = [f"{what} ({licence})" for what, licence in licences.items() if licence not in PERMISSIVE]
        if strict or not licences:
            broken.append(f"the licence of {' and '.join(strict) or 'its code (unknown)'} is not {limits.licence}")
    return "; ".join(broken)
