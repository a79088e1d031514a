from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from raybench.analysis.admissibility import broken_limits, change_note, refused_thresholds
from raybench.analysis.rows import FinishedModel
from raybench.config.experiment import Limits
from raybench.metrics import exchangeability
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate, Quality
from raybench.metrics.threshold import conformal_threshold
from tests.support.decisions import BUDGET, drawn, held_back, row_of, scored
from tests.support.results import SPEED, altered, done

Floats = npt.NDArray[np.float64]
MODEL = done(row_of("m", [drawn(3.0)]))


def refused(
    held: Mapping[str, Floats], new: Mapping[str, Floats], groups: tuple[list[str], list[str]] | None = None
) -> dict[str, str]:
    """Return the refusals of a line whose models score the same held-back and the same new OK images."""
    of_held = {model: held_back(scores, groups and groups[0]) for model, scores in held.items()}
    of_new = {model: scored(scores, np.empty(0), groups and groups[1]) for model, scores in new.items()}
    rows = {
        model: altered(
            MODEL,
            threshold=(found := conformal_threshold(images.scores, BUDGET, images.groups)),
            quality=with_rate(float((of_new[model].scores > (found.value or 0)).mean()), len(of_new[model].scores)),
        )
        for model, images in of_held.items()
    }
    return refused_thresholds(rows, seeds_of(of_new), seeds_of(of_held))


def seeds_of(images: Mapping[str, ImageScores]) -> dict[str, list[ImageScores]]:
    return {model: [of] for model, of in images.items()}


def with_rate(rate: float, n: int, low: float | None = None) -> Quality:
    return replace(MODEL.quality, false_alarm_rate=Estimate(rate, rate if low is None else low, 1.0, n))


def correlated(rng: np.random.Generator, models: int, n: int) -> dict[str, Floats]:
    common = rng.normal(size=n)
    return {f"m{at}": common + 0.7 * rng.normal(size=n) for at in range(models)}


@pytest.mark.parametrize(("held", "new"), [(19, 20), (19, 300), (60, 300)])
def test_healthy_models_are_hardly_ever_refused(held: int, new: int) -> None:
    """At most 2.5 % of lines with ten correlated models lose one; 8 of 100 are more than three standard errors more."""
    rng = np.random.default_rng(0)
    lines = sum(bool(refused(correlated(rng, 10, held), correlated(rng, 10, new))) for _ in range(100))
    assert lines <= 8


def test_healthy_models_are_hardly_ever_refused_with_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five photographs of each part."""
    monkeypatch.setattr(exchangeability, "PERMUTATIONS", 1000)
    rng = np.random.default_rng(0)
    groups = [f"a{at // 5}" for at in range(60)], [f"b{at // 5}" for at in range(100)]

    def photographs(parts: int) -> dict[str, Floats]:
        return {
            model: np.repeat(scores, 5) + rng.normal(0, 0.3, 5 * parts)
            for model, scores in correlated(rng, 3, parts).items()
        }

    with_groups = without = 0
    for _ in range(60):
        held, new = photographs(12), photographs(20)
        with_groups += bool(refused(held, new, groups))
        without += bool(refused(held, new))
    assert with_groups <= 5
    assert without > 10


def test_a_threshold_with_many_false_alarms_is_refused_and_told() -> None:
    rng = np.random.default_rng(0)
    held, new = correlated(rng, 3, 40), correlated(rng, 3, 60)
    found = refused(held, new | {"m1": new["m1"] + 2.2})
    assert found.keys() == {"m1"}
    assert found["m1"].startswith("its threshold does not hold: ")
    assert "false alarms on 60 OK test images, 5% promised (p = " in found["m1"]


def test_a_threshold_that_is_too_high_is_refused_and_told() -> None:
    """OK test images 1.5 standard deviations below the held-back ones: no alarm, and defects hide too."""
    rng = np.random.default_rng(0)
    held, new = correlated(rng, 3, 40), correlated(rng, 3, 60)
    found = refused(held, new | {"m2": new["m2"] - 1.5 * np.std(held["m2"])})
    assert found.keys() == {"m2"}
    assert found["m2"].startswith("its threshold is too high: OK test images score below the held-back ones (p = ")


@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_shifts_are_found_on_every_line(shift: float) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        held, new = correlated(rng, 10, 40), correlated(rng, 10, 60)
        found += "m0" in refused(held, new | {"m0": new["m0"] + shift * 1.22})
    assert found >= 28


def test_without_scores_nothing_is_tested() -> None:
    assert refused_thresholds({"m": MODEL}, {"m": [drawn(3.0)]}, {}) == {}


def test_the_note_on_a_changed_line_says_what_to_do() -> None:
    rows = {
        name: replace(MODEL, quality=with_rate(rate, 40)) for name, rate in {"a": 0.96, "b": 0.5, "c": 0.05}.items()
    }
    found = change_note(dict.fromkeys("ab", "refused"), rows, "brightness went from 90 to 120 (D = 0.84)")
    assert "thresholds of 2 of 3 models are refused, with 5% to 96% false alarms." in found
    assert "The inspection agrees: brightness went from 90 to 120 (D = 0.84)." in found
    assert "Set thresholds on OK test images" in found
    assert "inspection" not in change_note({"a": ""}, rows, "")


@pytest.mark.parametrize(
    ("limits", "changed", "said"),
    [
        (Limits(), MODEL, ""),
        (Limits(p95_ms=12.0, mb=5.0), MODEL, ""),
        (Limits(p95_ms=11.0), MODEL, "the 95th percentile of its time is 12 ms, the limit 11 ms"),
        (
            Limits(p95_ms=11.0),
            altered(MODEL, speed=replace(SPEED, other_load=0.5)),
            "",
        ),
        (Limits(mb=4.0), MODEL, "its size is 5 MB, the limit 4 MB"),
        (Limits(false_alarm_rate=0.1), altered(MODEL, quality=with_rate(0.2, 40, low=0.09)), ""),
        (
            Limits(false_alarm_rate=0.1),
            altered(MODEL, quality=with_rate(0.2, 40, low=0.11)),
            "its false-alarm rate is 20%, the limit 0.1",
        ),
        (
            Limits(false_alarm_rate=0.1),
            altered(MODEL, quality=replace(with_rate(0.2, 40), false_alarm_rate=Estimate(None, reason="no OK images"))),
            "its false-alarm rate is unknown, the limit 0.1",
        ),
        (
            Limits(p95_ms=1.0, mb=1.0),
            MODEL,
            "the 95th percentile of its time is 12 ms, the limit 1 ms; its size is 5 MB, the limit 1 MB",
        ),
    ],
)
def test_broken_limits_are_told(limits: Limits, changed: FinishedModel, said: str) -> None:
    assert broken_limits(changed, limits, {}) == said


def test_a_copy_of_a_model_refuses_no_other_and_saves_none() -> None:
    rng = np.random.default_rng(0)
    for shift in np.linspace(0.0, 1.6, 30):
        held, new = correlated(rng, 3, 40), correlated(rng, 3, 60)
        new = new | {"m1": new["m1"] + shift}
        copies = {f"copy {at}": "m0" for at in range(8)}
        found = refused(
            held | {copy: held[model] for copy, model in copies.items()},
            new | {copy: new[model] for copy, model in copies.items()},
        )
        assert {model: text for model, text in found.items() if model in held} == refused(held, new)
