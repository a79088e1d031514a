from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raybench.analysis.comparison import Utility, compare
from raybench.analysis.heatmap_grade import HeatmapGrade
from raybench.analysis.rows import BoardRow
from raybench.analysis.verdict import (
    BEST,
    FAILED,
    GRADES,
    NOT_ADMISSIBLE,
    NOT_GOOD_ENOUGH,
    NOT_TOLD_APART,
    WORSE,
    DecisionSettings,
    Verdict,
)
from raybench.config.experiment import Costs, Limits, VerdictSettings
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Estimate
from raybench.metrics.ranking import OPTIMISED_SEED_SD, SampledModels, sample_models
from raybench.runs.records import ModelSize
from tests.support.decisions import BUDGET, clear_evidence, drawn, held_back, scored, verdict_on
from tests.support.results import SPEED, altered, done

Floats = npt.NDArray[np.float64]
Seeds = list[ImageScores]
TINY = DecisionSettings(VerdictSettings(margin=0.02, good_enough=0.5))


def one_of(gaps: Mapping[str, float], ok: int = 40, ng: int = 40) -> dict[str, Seeds]:
    """Return one seed per model, on images that are hard for all of them."""
    return {model: [drawn(gap, seed, ok, ng, common=0.7)] for seed, (model, gap) in enumerate(gaps.items())}


def timed(ms: Mapping[str, float], load: float = 0.0) -> Callable[[BoardRow], BoardRow]:
    return lambda row: altered(row, speed=replace(SPEED, p50_ms=ms[row.model], other_load=load))


def told(verdict: Verdict, names: Mapping[str, str] | None = None) -> dict[str, object]:
    """Return what a verdict says of each model but its words, renamed."""
    called = names or {model: model for model in verdict.grades}
    found: dict[str, object] = {}
    for model, grade in verdict.grades.items():
        standing = verdict.standings.get(model)
        found[called[model]] = (grade, round(verdict.utilities.get(model, 0.0), 12)) + (
            ()
            if standing is None
            else (round(standing.best, 9), round(standing.loss, 9), round(standing.behind.value or 0.0, 9))
        )
    return found


@st.composite
def lines(draw: st.DrawFn) -> dict[str, Seeds]:
    """Draw a line of two to four models with few images and many ties."""
    ok, ng, values = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(2, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    found = {}
    for at in range(draw(st.integers(2, 4))):
        gap = draw(st.integers(0, values))
        found[f"m{at}"] = [
            scored(rng.integers(0, values, ok).astype(float), gap + rng.integers(0, values, ng).astype(float))
            for _ in range(draw(st.integers(1, 2)))
        ]
    return found


@given(lines(), st.sampled_from([0.5, 0.8, 1.0]), st.sampled_from([0.0, 0.02, 0.3]))
@settings(max_examples=40)
def test_the_named_model_has_the_highest_grade_and_the_lowest_loss_of_it(
    scores: dict[str, Seeds], good_enough: float, margin: float
) -> None:
    chosen = DecisionSettings(VerdictSettings(margin=margin, good_enough=good_enough))
    found = verdict_on(scores, chosen, change=timed({"m0": 1.0, "m1": 100.0, "m2": 10.0, "m3": 1000.0}))
    assert found.run is not None
    places = {model: GRADES.index(grade) for model, grade in found.grades.items()}
    assert places.keys() == scores.keys()
    assert places[found.run] == min(places.values())
    rivals = [model for model, place in places.items() if place == places[found.run] and model in found.standings]
    assert found.loss == min(found.standings[model].loss for model in rivals)
    assert (found.grades[found.run] == NOT_GOOD_ENOUGH) == (
        not any(found.grades[model] in (BEST, NOT_TOLD_APART, WORSE) for model in found.grades)
    )
    assert found.run not in found.tied
    assert found.sure == found.standings[found.run].best


@given(lines(), st.permutations(range(4)), st.sampled_from([0.5, 0.8]))
@settings(max_examples=25)
def test_order_and_names_of_models_and_lines_decide_nothing(
    scores: dict[str, Seeds], order: list[int], good_enough: float
) -> None:
    chosen = DecisionSettings(VerdictSettings(good_enough=good_enough))
    found = verdict_on(scores, chosen)
    names = {f"m{at}": f"other {order[at]}" for at in range(4)}
    other = verdict_on({names[model]: seeds for model, seeds in reversed(scores.items())}, chosen, line="another line")
    assert told(found, names) == told(other)
    assert found.run is not None
    assert other.run is not None
    named, again = scores[found.run], {names[model]: seeds for model, seeds in scores.items()}[other.run]
    same = [one.scores.tolist() for one in named] == [one.scores.tolist() for one in again]
    assert same or told(found)[found.run] == told(other)[other.run]


@given(lines(), st.integers(0, 3))
@settings(max_examples=25)
def test_a_copy_of_a_model_changes_no_other(scores: dict[str, Seeds], copied: int) -> None:
    original = f"m{copied % len(scores)}"
    copy = "z"  # of models that are equal in everything, the first by name is named
    found, other = verdict_on(scores, TINY), verdict_on(scores | {copy: scores[original]}, TINY)
    also = told(other)
    assert also.pop(copy) == also[original]
    assert also == told(found)
    assert found.run is not None
    assert other.run in (found.run, copy)
    assert found.run == original or other.run == found.run


@pytest.mark.parametrize("ms", [0.2, 2000.0])
@pytest.mark.parametrize("gap", [-3.0, 0.0, 0.6])
def test_a_clearly_worse_model_changes_no_other(gap: float, ms: float) -> None:
    times = timed({"a": 100.0, "b": 10.0, "c": 300.0, "worse": ms})
    scores = one_of({"a": 3.0, "b": 2.9, "c": 1.9})
    found = verdict_on(scores, change=times)
    other = verdict_on(scores | {"worse": [drawn(gap, 9, common=0.7)]}, change=times)
    assert found.run == other.run
    also = told(other)
    assert also.pop("worse")[0] in (WORSE, NOT_GOOD_ENOUGH)  # type: ignore[index]
    assert also == told(found)
    for model, standing in found.standings.items():
        assert other.standings[model].best == pytest.approx(standing.best, abs=1e-12)
        assert other.places[model] == standing.places


def test_a_clear_winner() -> None:
    found = verdict_on(one_of({"good": 3.0, "near": 1.8, "bad": 0.5}))
    assert (found.run, found.tied) == ("good", ())
    assert found.grades == {"good": BEST, "near": WORSE, "bad": NOT_GOOD_ENOUGH}
    assert found.places["good"] == (1, 1)
    assert "It is better than every other model compared." in found.sentence
    assert found.sure is not None
    assert found.sure > 0.98
    assert found.loss == pytest.approx(0.0, abs=1e-3)


def test_among_equally_good_models_the_quick_one_is_named() -> None:
    scores = {"slow": [drawn(3.0)], "quick": [drawn(3.0)]}
    found = verdict_on(scores, change=timed({"slow": 150.0, "quick": 5.0}))
    assert (found.run, found.tied) == ("quick", ("slow",))
    assert found.grades == {"slow": BEST, "quick": BEST}
    assert "slow is as good; time speaks for quick." in found.sentence


@given(st.permutations([1190.0, 15.0, 200.0]))
@settings(max_examples=6)
def test_times_on_a_busy_machine_decide_nothing(ms: list[float]) -> None:
    scores = one_of({"a": 2.5, "b": 2.5, "c": 2.4})
    found = verdict_on(scores, change=timed(dict(zip("abc", ms, strict=True)), load=0.5))
    known = verdict_on(scores, change=timed(dict.fromkeys("abc", 0.0)))
    assert told(found) == told(known)
    assert found.run == known.run
    assert any("busy machine" in note for note in found.notes)
    assert known.notes == ()


def test_one_busy_time_makes_all_times_of_the_line_count_for_nothing() -> None:
    scores = {"a": [drawn(2.5)], "b": [drawn(2.5)]}

    def change(row: BoardRow) -> BoardRow:
        return altered(
            row, speed=replace(SPEED, p50_ms=900.0 if row.model == "a" else 1.0, other_load=0.2 * (row.model == "a"))
        )

    found = verdict_on(scores, change=change)
    assert found.utilities["a"] == found.utilities["b"]


def test_a_heat_map_counts_and_a_missing_one_does_not_help() -> None:
    scores = {"sharp": [drawn(2.5)], "blind": [drawn(2.5)]}

    def change(row: BoardRow) -> BoardRow:
        if row.model == "blind":
            return row
        au_pro = Estimate(0.6, 0.55, 0.65, 40)
        return altered(
            row, quality=replace(done(row).quality, au_pro=au_pro), heat=HeatmapGrade("noisy", True, "", 0.6)
        )

    found = verdict_on(scores, change=change)
    assert found.run == "sharp"
    assert found.utilities["sharp"] > found.utilities["blind"]


def test_perfect_separation_is_graded_as_one_error_is() -> None:
    """40 OK and 10 NG images."""
    ok, perfect = np.arange(40.0), 100 + np.arange(10.0)
    errors = np.concatenate([[38.5], perfect[1:]])
    poor = scored(ok, np.concatenate([np.arange(5.0), perfect[5:]]))
    found = [verdict_on({"first": [scored(ok, ng)], "poor": [poor]}) for ng in (perfect, errors)]
    assert [one.run for one in found] == ["first", "first"]
    assert [one.grades for one in found] == [found[0].grades] * 2
    assert found[0].sure == pytest.approx(found[1].sure, abs=0.05)
    assert found[0].expected.high == 1.0
    assert found[0].expected.low is not None
    assert found[0].expected.low < 0.98


def test_with_one_ng_image_a_useless_model_is_not_the_best() -> None:
    """The useless model has an AUROC of 0.70, the good one 0.95."""
    rng, repeats, best, named = np.random.default_rng(0), 150, 0, 0
    gaps = {model: np.sqrt(2) * stats.norm.ppf(auroc) for model, auroc in {"good": 0.95, "useless": 0.7}.items()}
    for _ in range(repeats):
        common = rng.normal(size=41)
        scores = {}
        for model, gap in gaps.items():
            own = 0.6 * common + 0.8 * rng.normal(size=41)
            scores[model] = [scored(own[:40], own[40:] + gap)]
        sampled = sample_models(scores, BUDGET, draws=300)
        assert isinstance(sampled, SampledModels)
        found = compare({m: Utility(v.auroc, v.auroc_draws, {}) for m, v in sampled.models.items()}, 0.02)
        best += found["useless"].is_best
        named += next(iter(found)) == "useless"
    assert best / repeats <= 0.05
    assert named / repeats <= 0.2


def test_models_that_another_training_would_turn_round_are_not_called_different() -> None:
    """Equal expected quality, three seeds that differ by 0.04, 100 + 100 images."""
    rng, repeats, called = np.random.default_rng(0), 100, 0
    for _ in range(repeats):
        common = rng.normal(size=200)
        scores = {}
        for model in "ab":
            gaps = np.sqrt(2) * stats.norm.ppf(np.clip(0.88 + 0.04 * rng.standard_normal(3), 0.6, 0.995))
            seeds = [np.sqrt(0.5) * (common + rng.normal(size=200)) for _ in gaps]
            scores[model] = [scored(of[:100], of[100:] + gap) for of, gap in zip(seeds, gaps, strict=True)]
        sampled = sample_models(scores, BUDGET, draws=200)
        assert isinstance(sampled, SampledModels)
        found = compare({m: Utility(v.auroc, v.auroc_draws, {}) for m, v in sampled.models.items()}, 0.02)
        called += any(standing.is_worse for standing in found.values())
    assert called / repeats <= 0.07


def test_more_seeds_tell_models_apart() -> None:
    few, many = (
        verdict_on(
            {
                model: [drawn(gap + shift, 10 * at + seed, 80, 80, 0.6) for seed, shift in enumerate(shifts)]
                for at, (model, gap) in enumerate({"a": 2.6, "b": 2.2}.items())
            }
        )
        for shifts in ([-0.4, 0.4], [-0.4, 0.4] * 5)
    )
    assert width(many.standings["b"].behind) < width(few.standings["b"].behind)
    assert (many.sure or 0) > (few.sure or 0)


def test_the_named_of_equals_is_expected_to_be_worse_than_measured() -> None:
    """The winner's curse: ten models of AUROC 0.9 on 16 + 16 images."""
    gap = float(np.sqrt(2) * stats.norm.ppf(0.9))
    measured, expected, covered = [], [], 0
    for at in range(20):
        scores = {f"m{model}": [drawn(gap, 1000 * at + model, 16, 16)] for model in range(10)}
        found = verdict_on(scores)
        assert found.run is not None
        measured.append(found.terms[found.run]["image AUROC"])
        expected.append(found.expected.value or 0.0)
        covered += (found.expected.low or 0) <= 0.9 <= (found.expected.high or 0)
    assert np.mean(measured) > 0.94
    assert np.mean(expected) - 0.9 < 0.7 * (np.mean(measured) - 0.9)
    assert covered >= 17


def test_no_grade_stands_above_a_higher_one() -> None:
    """Where one with a higher loss is *not told apart* and another *worse*, less is known of it."""
    gap = float(np.sqrt(2) * stats.norm.ppf(0.9))
    for at in range(30):
        rng = np.random.default_rng(at)
        gaps = {f"m{model}": gap + rng.normal(0, 0.4) for model in range(6)}
        found = verdict_on(one_of(gaps, 16, 16), TINY)
        places = [GRADES.index(found.grades[model]) for model in found.standings]
        assert places == sorted(places)
        assert found.run == next(iter(found.standings))
        for (_, higher), (_, lower) in itertools.combinations(found.standings.items(), 2):
            if lower.loss < higher.loss - 1e-9 and lower.is_worse > higher.is_worse:
                assert width(lower.behind) < width(higher.behind)


def width(number: Estimate) -> float:
    return (number.high or 0.0) - (number.low or 0.0)


def test_a_leader_with_half_of_ok_images_alarmed_is_not_admissible_and_told() -> None:
    """It leads by 0.05 of AUROC; the one behind it keeps its budget."""
    rng = np.random.default_rng(0)
    ok, ng = rng.normal(0, 1, 60), rng.normal(3.5, 1, 40)
    held = {model: [held_back(rng.normal(0, 1, 40))] for model in ("leader", "steady", "third")}
    scores = {
        "leader": [scored(ok + 1.6, ng + 1.6)],
        "steady": [scored(ok, rng.normal(2.3, 1, 40))],
        "third": [scored(ok, rng.normal(1.8, 1, 40))],
    }
    found = verdict_on(scores, held=held)
    assert found.run == "steady"
    assert found.grades["leader"] == NOT_ADMISSIBLE
    assert found.conclusions["leader"].startswith("its threshold does not hold: ")
    assert "leader separates better but is not admissible." in found.sentence
    assert "leader" not in found.standings


def test_copies_of_a_leader_with_many_alarms_do_not_make_it_the_rule() -> None:
    rng = np.random.default_rng(0)
    ok = rng.normal(0, 1, 60)
    held = {model: [held_back(rng.normal(0, 1, 40))] for model in ("leader", "steady", "third")}
    scores = {
        "leader": [scored(ok + 1.6, rng.normal(5.1, 1, 40))],
        "steady": [scored(ok, rng.normal(2.3, 1, 40))],
        "third": [scored(ok, rng.normal(1.8, 1, 40))],
    }
    copies = ("copy 1", "copy 2", "copy 3")
    found = verdict_on(
        scores | dict.fromkeys(copies, scores["leader"]), held=held | dict.fromkeys(copies, held["leader"])
    )
    alone = verdict_on(scores, held=held)
    assert (found.run, found.notes) == (alone.run, alone.notes) == ("steady", ())
    assert {found.grades[model] for model in ("leader", *copies)} == {NOT_ADMISSIBLE}
    assert found.conclusions["leader"] == alone.conclusions["leader"]


def test_a_limit_of_time_that_a_busy_machine_leaves_open_is_told() -> None:
    """Such times exclude nothing, and a model that is named although its time exceeds the limit is no surprise."""
    scores, limits = one_of({"slow": 3.5, "quick": 2.0}), DecisionSettings(limits=Limits(p95_ms=50.0))

    def busy(row: BoardRow) -> BoardRow:
        p95_ms = {"slow": 1190.0, "quick": 40.0}[row.model]
        return altered(row, speed=replace(SPEED, p95_ms=p95_ms, other_load=0.9))

    found = verdict_on(scores, limits, change=busy)
    assert found.run == "slow"
    told = "Whether slow (1.19e+03 ms) keeps the limit of 50 ms is not known: times were taken on a busy machine, and"
    assert [note for note in found.notes if note.startswith(told)]
    assert not any("not known" in note for note in verdict_on(scores, change=busy).notes)


def test_a_line_that_has_changed_is_told_loudly_and_has_a_verdict() -> None:
    rng = np.random.default_rng(0)
    held = {model: [held_back(rng.normal(0, 1, 40))] for model in "abc"}
    scores = {
        model: [scored(rng.normal(2, 1, 40), rng.normal(gap, 1, 40))]
        for model, gap in zip("abc", (5, 4, 3.5), strict=True)
    }
    found = verdict_on(scores, held=held, drift="brightness went from 90 to 120 (D = 0.84)")
    assert found.run == "a"
    assert NOT_ADMISSIBLE not in found.grades.values()
    [note] = found.notes
    assert note.startswith("The OK images of the test split differ from those trained on: ")
    assert "brightness went from 90 to 120 (D = 0.84)" in note
    assert note in str(found)


def test_limits_exclude_however_good_a_model_is() -> None:
    scores = one_of({"large": 3.5, "small": 2.5, "quick": 2.0})
    sizes = {"large": 900.0, "small": 5.0, "quick": 5.0}

    def change(row: BoardRow) -> BoardRow:
        return altered(row, size=ModelSize(sizes[row.model], 100))

    found = verdict_on(scores, DecisionSettings(limits=Limits(mb=100.0)), change=change)
    assert found.run == "small"
    assert found.grades["large"] == NOT_ADMISSIBLE
    assert found.conclusions["large"] == "its size is 900 MB, the limit 100 MB"


@pytest.mark.parametrize(
    ("licences", "said"),
    [
        ({"its code": "Apache-2.0", "its weights `resnet18`": "BSD-3-Clause"}, ""),
        (
            {"its code": "Apache-2.0", "its weights `dtd`": "for research only"},
            "the licence of its weights `dtd` (for research only) is not permissive",
        ),
        ({"its code": "unknown"}, "the licence of its code (unknown) is not permissive"),
        ({}, "the licence of its code (unknown) is not permissive"),
    ],
)
def test_a_model_that_may_not_be_used_is_not_admissible(licences: dict[str, str], said: str) -> None:
    settings = DecisionSettings(
        limits=Limits(licence="permissive"), licences={"a": licences, "b": {"its code": "Apache-2.0"}}
    )
    found = verdict_on(one_of({"a": 3.0, "b": 2.0}), settings)
    assert (found.grades["a"] == NOT_ADMISSIBLE, found.run) == (bool(said), "b" if said else "a")
    assert not said or found.conclusions["a"] == said


def test_where_nothing_fits_the_limits_that_is_the_verdict() -> None:
    found = verdict_on(one_of({"a": 3.0, "b": 2.0}) | {"c": None}, DecisionSettings(limits=Limits(p95_ms=5.0, mb=1.0)))
    assert (found.run, found.tied, found.sure, found.standings) == (None, (), None, {})
    assert found.grades == {"a": NOT_ADMISSIBLE, "b": NOT_ADMISSIBLE, "c": FAILED}
    assert found.sentence.startswith("bolt: no model is admissible. ")
    for model in "ab":
        broken = f"{model}: the 95th percentile of its time is 12 ms, the limit 5 ms; its size is 5 MB, the limit 1 MB"
        assert broken in found.sentence


def test_with_costs_the_cheaper_model_wins_although_it_separates_less_well() -> None:
    """`sharp` has the higher AUROC, `early` finds more at its own threshold."""
    rng = np.random.default_rng(0)
    ok = rng.normal(0, 1, 200)
    held = {model: [held_back(rng.normal(0, 1, 59))] for model in ("sharp", "early")}
    hidden, clear = rng.normal(1.2, 0.2, 100), np.concatenate([rng.normal(6, 1, 85), rng.normal(-2, 1, 15)])
    scores = {"sharp": [scored(ok, hidden + 0.2)], "early": [scored(ok, clear)]}
    by_auroc = verdict_on(scores, DecisionSettings(VerdictSettings(recall=0.0)), held)
    costs = Costs(missed_defect=100.0, false_alarm=1.0, defect_rate=0.05)
    by_cost = verdict_on(scores, DecisionSettings(costs=costs), held)
    assert by_auroc.run == "sharp"
    assert by_cost.run == "early"
    assert by_cost.grades["sharp"] != BEST
    assert "of the cost of missing every defect" in by_cost.sentence


def test_with_costs_a_price_of_time_counts() -> None:
    held = {model: [held_back(np.random.default_rng(1).normal(0, 1, 59))] for model in ("slow", "quick")}
    scores = {"slow": [drawn(3.0, 0, 200, 200, 0.8)], "quick": [drawn(2.8, 0, 200, 200, 0.8)]}
    times = timed({"slow": 500.0, "quick": 5.0})
    free = Costs(missed_defect=100.0, false_alarm=1.0, defect_rate=0.05)
    assert verdict_on(scores, DecisionSettings(costs=free), held, change=times).run == "slow"
    dear = free.model_copy(update={"ms": 0.01})
    assert verdict_on(scores, DecisionSettings(costs=dear), held, change=times).run == "quick"


def test_a_model_that_few_images_put_below_the_limit_may_be_the_best() -> None:
    """2 NG images say little: a model that is named because chance puts all others below the limit is not sure."""
    ok, best, low = np.arange(8.0), np.array([6.5, 8.5]), np.array([4.5, 6.5])
    found = verdict_on({"a": [scored(ok, best)], "b": [scored(ok, low)]})
    assert (found.run, found.grades["b"]) == ("a", NOT_GOOD_ENOUGH)
    assert found.sure is not None
    assert found.sure < 0.9
    assert "sure that no other model is better" in found.sentence


def test_what_is_not_good_enough_takes_part_only_where_nothing_is() -> None:
    found = verdict_on(one_of({"good": 2.5, "poor": 0.4}))
    assert found.grades == {"good": BEST, "poor": NOT_GOOD_ENOUGH}
    assert found.standings.keys() == {"good"}
    assert found.conclusions["poor"].endswith(", 0.8 asked for")
    alone = verdict_on(one_of({"poor": 0.4, "worse": 0.1}))
    assert alone.run == "poor"
    assert set(alone.grades.values()) == {NOT_GOOD_ENOUGH}
    assert alone.sentence.endswith("No model is good enough (image AUROC 0.8).")


def test_too_few_images_leave_models_apart_and_say_how_many_would_do() -> None:
    scores = {model: [drawn(gap, seed, 40, 4, 0.5)] for seed, (model, gap) in enumerate({"a": 2.5, "b": 1.9}.items())}
    found = verdict_on(scores, TINY)
    assert set(found.grades.values()) == {NOT_TOLD_APART}
    assert found.more_ng is not None
    assert found.more_ng > 4
    assert f"about {found.more_ng} more NG images would settle it" in found.sentence


def test_as_many_images_as_asked_for_settle_it() -> None:
    """Of lines whose models are not told apart, most are with the further images that the verdict asks for."""
    settled = asked = 0
    for seed in range(12):
        gaps = {"a": 2.4, "b": 1.6}
        few = verdict_on(
            {m: [drawn(gap, 2 * seed + at, 30, 30, 0.5)] for at, (m, gap) in enumerate(gaps.items())}, TINY
        )
        if few.more_ng is None or few.more_ng > 1500:
            continue
        asked, count = asked + 1, 30 + few.more_ng
        many = verdict_on(
            {m: [drawn(gap, 99 * seed + at, count, count, 0.5)] for at, (m, gap) in enumerate(gaps.items())}, TINY
        )
        settled += all(grade != NOT_TOLD_APART for grade in many.grades.values())
    assert asked >= 3
    assert settled >= 0.6 * asked


def test_failures_are_said_and_never_win() -> None:
    found = verdict_on({"good": [drawn(3.0)], "broken": None})
    assert found.run == "good"
    assert found.conclusions["broken"] == "ModelError in train"
    assert found.grades["broken"] == FAILED


def test_without_ng_images_nothing_is_decided() -> None:
    only_ok = scored(np.arange(9.0), np.empty(0))
    found = verdict_on({"one": [only_ok], "two": [only_ok]})
    assert (found.run, found.sentence) == (None, "bolt: no verdict, no NG images in the test split.")
    assert found.conclusions == {"one": "quality unknown", "two": "quality unknown"}


def test_nothing_finished() -> None:
    found = verdict_on({"broken": None})
    assert (found.run, found.sentence) == (None, "bolt: no verdict, no model finished.")
    assert found.conclusions == {"broken": "ModelError in train"}


def test_a_model_without_held_back_scores_is_compared_by_its_ranks() -> None:
    found = verdict_on(
        {"old": [drawn(3.0)], "new": [drawn(2.0, 1)]}, held={"new": [held_back(np.arange(-2.0, 2.0, 0.1))]}
    )
    assert found.run == "old"
    assert found.notes == ("Nothing says whether thresholds hold: held-back scores are missing of old.",)


def test_the_evidence_is_that_of_the_common_images() -> None:
    whole, part = drawn(2.0), drawn(1.8, 1)
    part = part.only(part.image_ids[4:])
    found = clear_evidence({"whole": [whole], "part": [part]})
    alone = clear_evidence({"whole": [whole.only(part.image_ids)], "part": [part]})
    assert found.aurocs == alone.aurocs
    assert found.ng == 40


def test_dear_false_alarms_decide_although_the_prior_is_about_image_auroc() -> None:
    """A false alarm on every OK image costs a hundred times what missing every defect does."""
    rng = np.random.default_rng(0)
    held = {model: [held_back(rng.normal(0, 1, 200))] for model in ("quiet", "loud")}
    ok = rng.normal(0, 1, 300)
    scores = {"quiet": [scored(ok, rng.normal(3, 1, 60))], "loud": [scored(ok + 0.3, rng.normal(3, 1, 60))]}
    dear = Costs(missed_defect=200.0, false_alarm=20.0, defect_rate=0.001)
    found = verdict_on(scores, DecisionSettings(costs=dear), held)
    assert dear.alarms_per_defect == pytest.approx(99.9)
    assert found.run == "quiet"
    assert (found.sure or 0.0) > 0.8
    assert (found.standings["loud"].behind.value or 0.0) > 1.0


def test_a_changed_line_is_decided_without_costs() -> None:
    rng = np.random.default_rng(0)
    held = {model: [held_back(rng.normal(0, 1, 40))] for model in ("a", "b")}
    scores = {model: [scored(rng.normal(4, 1, 60), rng.normal(8, 1, 60))] for model in ("a", "b")}
    costs = DecisionSettings(costs=Costs(missed_defect=100.0, false_alarm=1.0, defect_rate=0.05))
    found = verdict_on(scores, costs, held)
    assert any(note.startswith("Costs count for nothing") for note in found.notes)
    assert "image AUROC" in found.terms[found.run or ""]


def test_what_is_expected_does_not_mix_utility_with_image_auroc() -> None:
    """A slow model is named for its image AUROC; what time costs says nothing about its image AUROC on new images."""
    scores = {"slow": [drawn(2.9, 51, 50, 50)], "fast": [drawn(1.35, 1, 50, 50)]}
    dear = DecisionSettings(VerdictSettings(ms=0.001))
    found = verdict_on(scores, dear, change=timed({"slow": 130.0, "fast": 10.0}))
    measured = clear_evidence(scores).aurocs["slow"]
    assert found.run == "slow"
    assert found.expected.value is not None
    assert measured - 0.02 <= found.expected.value <= measured


def test_no_images_are_asked_for_where_training_is_what_varies() -> None:
    """On 3,000 + 3,000 images the difference of two trained detectors is known; that of two models is not."""
    scores = {model: [drawn(gap, at, 3000, 3000)] for at, (model, gap) in enumerate({"a": 1.9, "b": 1.75}.items())}
    found = verdict_on(scores)
    assert found.grades["b"] == NOT_TOLD_APART
    assert found.more_ng is None


def test_with_one_seed_an_optimised_model_is_judged_less_surely() -> None:
    scores = one_of({"a": 3.0, "b": 2.5})
    closed_form = verdict_on(scores)
    optimised = verdict_on(scores, change=lambda row: altered(row, steps=TrainSteps(500, 500)))
    assert (closed_form.run, optimised.run) == ("a", "a")
    assert 0.5 < (optimised.sure or 0) < (closed_form.sure or 0)
    assert (optimised.loss or 0) > (closed_form.loss or 0)


def test_one_seed_of_optimised_models_is_called_as_sure_as_it_is_right() -> None:
    """Four models, trainings that differ by 0.02, 80 + 80 images."""
    rng, repeats = np.random.default_rng(0), 150
    sure, right = [], []
    for _ in range(repeats):
        truths = dict(zip("abcd", np.clip(rng.normal(0.9, 0.04, 4), 0.6, 0.99).tolist(), strict=True))
        common, scores = rng.normal(size=160), {}
        for model, truth in truths.items():
            trained = np.clip(truth + 0.02 * rng.standard_normal(), 0.6, 0.995)
            own = np.sqrt(0.5) * (common + rng.normal(size=160))
            scores[model] = [scored(own[:80], own[80:] + np.sqrt(2) * stats.norm.ppf(trained))]
        sampled = sample_models(scores, BUDGET, draws=300, seed_sds=dict.fromkeys(truths, OPTIMISED_SEED_SD))
        assert isinstance(sampled, SampledModels)
        found = compare({m: Utility(v.auroc, v.auroc_draws, {}) for m, v in sampled.models.items()}, 0.02)
        named = next(iter(found))
        sure.append(found[named].best)
        right.append(truths[named] == max(truths.values()))
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.05)
