from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from raybench.analysis.all_lines import FEWEST_LINES, over_all
from raybench.analysis.verdict import (
    BEST,
    FAILED,
    GRADES,
    NOT_ADMISSIBLE,
    NOT_TOLD_APART,
    DecisionSettings,
    Evidence,
    Verdict,
)
from raybench.config.experiment import Limits
from tests.support.decisions import clear_evidence, drawn, evidence_on, held_back, scored


def line(name: str, gaps: Mapping[str, float | None], seed: int = 0) -> Evidence:
    """A line by how far NG images lie above OK ones, by model; None for one that failed."""
    scores = {
        model: None if gap is None else [drawn(gap, 100 * seed + at, common=0.5)]
        for at, (model, gap) in enumerate(gaps.items())
    }
    return clear_evidence(scores, line=name)


def decided(*evidence: Evidence) -> Verdict:
    found = over_all(evidence)
    assert found is not None
    return found


def numbers(verdict: Verdict) -> dict[str, tuple[str, float, float]]:
    return {
        model: (verdict.grades[model], round(standing.best, 9), round(standing.loss, 9))
        for model, standing in verdict.standings.items()
    }


def test_the_steady_model_serves_all_lines() -> None:
    found = decided(line("a", {"steady": 2.5, "moody": 3.0}), line("b", {"steady": 2.5, "moody": 0.8, "absent": 9.0}))
    assert (found.line, found.run) == ("all lines", "steady")
    assert found.grades["moody"] != BEST
    assert found.conclusions["absent"] == "not run on every line"
    assert "absent" not in found.grades
    assert over_all([line("a", {"steady": 2.5})]) is None


def test_failing_on_hard_lines_does_not_pay() -> None:
    """Both models are poor on hard lines; one fails there."""
    easy = [line(f"easy {at}", {"whole": 2.6, "brittle": 2.6}, at) for at in range(4)]
    hard = [line(f"hard {at}", {"whole": 1.0, "brittle": None}, 10 + at) for at in range(3)]
    finished = decided(*easy, *(line(f"hard {at}", {"whole": 1.0, "brittle": 1.0}, 10 + at) for at in range(3)))
    found = decided(*easy, *hard)
    assert found.run == "whole"
    assert found.utilities["brittle"] < finished.utilities["brittle"]
    assert GRADES.index(found.grades["brittle"]) >= GRADES.index(NOT_TOLD_APART)
    assert found.notes == (
        "brittle failed or is not admissible on hard 0, hard 1, hard 2; there it counts as one that tells nothing.",
    )


def test_models_that_miss_the_same_lines_have_one_note() -> None:
    whole = {"whole": 2.0, "brittle": 2.0, "weak": 2.0, "rare": 2.0}
    failed = whole | {"brittle": None, "weak": None}
    lines = [line("a", whole), line("b", failed, 1), line("c", failed | {"rare": None}, 2)]
    assert decided(*lines).notes == (
        "brittle, weak failed or are not admissible on b, c; there each counts as one that tells nothing.",
        "rare failed or is not admissible on c; there it counts as one that tells nothing.",
    )


def test_a_model_that_is_not_admissible_on_a_line_pays_there() -> None:
    """85 % false alarms on one of two lines is not the best over all, whatever its AUROC."""
    lines = [line(name, {"alarming": 3.0, "steady": 2.4}, at) for at, name in enumerate("ab")]
    lines[1] = replace(lines[1], excluded={"alarming": "its threshold does not hold: 85% false alarms"})
    found = decided(*lines)
    assert found.run == "steady"
    assert found.grades["alarming"] != BEST
    [note] = found.notes
    assert note.startswith("alarming failed or is not admissible on b; ")


def test_a_model_that_is_admissible_nowhere_is_not_compared() -> None:
    limits = DecisionSettings(limits=Limits(mb=4.0))
    lines = [clear_evidence({"a": [drawn(2.0)], "b": [drawn(2.0, 1)]}, limits, name) for name in "xy"]
    found = decided(*lines)
    assert found.run is None
    assert found.grades == {"a": NOT_ADMISSIBLE, "b": NOT_ADMISSIBLE}
    assert "its size is 5 MB, the limit 4 MB" in found.sentence


def test_ten_models_that_each_fail_once_get_a_verdict() -> None:
    lines = [
        line(f"line {at}", {f"m{model}": None if model == at else 1.5 + model / 10 for model in range(10)}, at)
        for at in range(10)
    ]
    found = decided(*lines)
    assert found.run is not None
    assert len(found.standings) + sum(grade == "not good enough" for grade in found.grades.values()) == 10
    assert found.line == "all lines"
    assert len(found.notes) == 10


def test_what_finished_nowhere_has_failed() -> None:
    found = decided(*(line(name, {"good": 2.0, "dead": None}) for name in "ab"))
    assert found.grades["dead"] == FAILED
    assert found.conclusions["dead"] == "finished on no compared line"
    assert over_all([line(name, {"good": 2.0, "dead": None}) for name in "a"]) is None


def test_three_perfect_lines_are_not_certain() -> None:
    perfect = scored(np.arange(20.0), 100 + np.arange(20.0))
    poor = scored(np.arange(20.0), 5 + np.arange(20.0))
    found = decided(*(clear_evidence({"perfect": [perfect], "poor": [poor]}, line=name) for name in "abc"))
    assert found.run == "perfect"
    assert [found.expected.value, found.expected.high] == pytest.approx([1.0, 1.0])
    assert found.expected.low is not None
    assert found.expected.low < 0.99
    assert "1.000 (1.000–1.000)" not in found.sentence


def test_the_mean_of_a_few_lines_is_known_better_than_each() -> None:
    lines = [line(str(at), {"a": 1.6, "b": 1.2}, at) for at in range(FEWEST_LINES - 1)]
    found = decided(*lines)
    one = np.diff(np.quantile(lines[0].auroc_draws["a"], [0.025, 0.975]))[0]
    assert found.expected.high is not None
    assert found.expected.low is not None
    assert found.expected.high - found.expected.low == pytest.approx(one / 2, rel=0.35)  # a mean of four


@pytest.mark.parametrize("count", [3, 7])
def test_order_and_names_decide_nothing(count: int) -> None:
    gaps = {"a": 2.4, "b": 2.2, "c": 1.4}
    lines = [line(f"line {at}", gaps, at) for at in range(count)]
    renamed = [
        clear_evidence(
            {
                name.upper(): [drawn(gap, 100 * at + place, common=0.5)]
                for place, (name, gap) in enumerate(gaps.items())
            },
            line=f"other {at}",
        )
        for at in range(count)
    ]
    found, other = decided(*lines), decided(*renamed)
    assert {name.upper(): value for name, value in numbers(found).items()} == numbers(other)
    assert other.run == (found.run or "").upper()
    turned = decided(*reversed(lines))
    assert turned.run == found.run
    if count < FEWEST_LINES:
        assert numbers(turned) == numbers(found)
    for model, standing in turned.standings.items():  # from FEWEST_LINES on, lines are drawn
        assert standing.best == pytest.approx(found.standings[model].best, abs=0.04)


@pytest.mark.parametrize("count", [3, 7])
def test_a_worse_model_or_a_copy_changes_no_other(count: int) -> None:
    gaps = {"a": 2.4, "b": 2.2}

    def lines(further: Mapping[str, float]) -> list[Evidence]:
        found = []
        for at in range(count):
            scores = {
                name: [drawn(gap, 100 * at + place, common=0.5)] for place, (name, gap) in enumerate(gaps.items())
            }
            scores |= {
                name: [drawn(gap, 100 * at + (9 if name == "worse" else 0), common=0.5)]
                for name, gap in further.items()
            }
            found.append(clear_evidence(scores, line=str(at)))
        return found

    alone, worse, copied = (decided(*lines(further)) for further in ({}, {"worse": 0.2}, {"copy": 2.4}))
    assert alone.run == worse.run
    assert {name: worse.grades[name] for name in "ab"} == dict(alone.grades)
    for name in "ab":
        assert numbers(worse)[name] == numbers(alone)[name]
        assert numbers(copied)[name] == numbers(alone)[name]
    assert numbers(copied)["copy"] == numbers(copied)["a"]


def test_few_lines_out_of_many_are_named_so() -> None:
    lines = [line(str(at), {"a": 2.0, "b": 1.0}, at) for at in range(3)]
    found = decided(*lines, line("short", {"b": 2.0}))
    assert found.line == "3 of 4 lines"
    assert found.sentence.startswith("3 of 4 lines: run a")


def test_many_lines_tell_a_steady_lead_apart() -> None:
    few, many = (decided(*(line(str(at), {"a": 2.0, "b": 1.5}, at) for at in range(count))) for count in (2, 12))
    assert (few.run, many.run) == ("a", "a")
    assert many.grades["b"] != BEST
    assert (many.sure or 0) > 0.95
    assert (many.sure or 0) >= (few.sure or 0) - 0.01


def test_many_perfect_lines_of_few_images_are_not_certain() -> None:
    perfect = scored(np.arange(5.0), 100 + np.arange(3.0))
    poor = scored(np.arange(5.0), np.array([2.5, 100, 101]))
    names = [f"line {number}" for number in range(6)]
    found = decided(*(clear_evidence({"perfect": [perfect], "poor": [poor]}, line=name) for name in names))
    assert found.expected.low is not None
    assert found.expected.low < 0.97
    assert "(1.000–1.000)" not in found.sentence
    assert (found.standings["poor"].behind.low or 0.0) < (found.standings["poor"].behind.high or 0.0) - 0.02


def test_lines_whose_thresholds_or_times_mean_nothing_are_told() -> None:
    lines = [line(name, {"m": 3.0, "n": 2.4}, at) for at, name in enumerate("abc")]
    assert decided(*lines).notes == ()
    lines[1], lines[2] = replace(lines[1], has_changed=True), replace(lines[2], timed=False)
    assert decided(*lines).notes == (
        "OK images of the test split differ from those trained on: b. Most thresholds are refused there, and exclude "
        "no model; recall and false alarms mean little.",
        "Times count for nothing, because of where or when they were taken: c.",
    )


def test_a_line_with_85_percent_false_alarms_is_told_over_all_lines() -> None:
    rng = np.random.default_rng(0)
    held = {model: [held_back(rng.normal(0, 1, 40))] for model in "ab"}

    def of(name: str, shift: float) -> Evidence:
        scores = {model: [scored(rng.normal(shift, 1, 60), rng.normal(shift + 3, 1, 40))] for model in "ab"}
        found = evidence_on(scores, held=held, line=name)
        assert isinstance(found, Evidence)
        return found

    found = decided(of("quiet", 0.0), of("alarming", 2.5))
    assert found.run is not None
    [note] = found.notes
    assert note.startswith("OK images of the test split differ from those trained on: alarming. ")
