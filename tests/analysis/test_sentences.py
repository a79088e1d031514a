from __future__ import annotations

import re
from dataclasses import replace

import pytest

from raybench.analysis.sentences import format_number, format_probability
from raybench.analysis.verdict import BEST, NOT_TOLD_APART, DecisionSettings
from raybench.config.experiment import Costs, VerdictSettings
from raybench.metrics.numbers import Estimate
from tests.support.decisions import drawn, held_back, verdict_on
from tests.support.results import NONE


def test_one_sentence_one_number_for_how_sure_and_one_for_what_a_wrong_choice_costs() -> None:
    found = verdict_on({"a": [drawn(2.6)], "b": [drawn(2.5, 1)]})
    assert re.match(
        r"bolt: run [ab] \(image AUROC 0\.\d{3} \(0\.\d{3}–\d\.\d{3}\)\)\. "
        r"\d+ % sure that no other model is better; expected loss 0\.0\d\d image AUROC\. ",
        found.sentence,
    )
    assert found.sure is not None
    assert format_probability(found.sure) in found.sentence
    assert f"expected loss {found.loss:.3f}" in found.sentence


def test_a_model_alone_is_compared_with_none() -> None:
    sentence = verdict_on({"only": [drawn(4.0, ok=200, ng=200)]}).sentence
    assert sentence.startswith("bolt: run only (image AUROC ")
    assert "sure" not in sentence
    assert "better" not in sentence


def test_the_unit_of_the_loss_is_that_of_the_costs() -> None:
    costs = DecisionSettings(costs=Costs(missed_defect=10.0, false_alarm=1.0, defect_rate=0.1))
    scores = {"a": [drawn(2.6)], "b": [drawn(2.5, 1)]}
    held = {name: [held_back(drawn(0.0, 7, ok=40, ng=0).scores)] for name in scores}
    assert "of the cost of missing every defect" in verdict_on(scores, costs, held).sentence


def test_equal_and_unclear_models_are_told_apart() -> None:
    wide = DecisionSettings(VerdictSettings(margin=0.5))
    equal = verdict_on({"a": [drawn(2.6)], "b": [drawn(2.5, 1)]}, wide)
    [other] = equal.tied
    assert equal.grades[other] == BEST
    assert f"{other} is as good" in equal.sentence
    assert equal.conclusions[other].startswith("as good within 0.5; behind by ")
    narrow = DecisionSettings(VerdictSettings(margin=0.0))
    unclear = verdict_on({"a": [drawn(2.6)], "b": [drawn(2.5, 1)], "c": [drawn(2.5, 2)]}, narrow)
    assert set(unclear.grades.values()) == {NOT_TOLD_APART}
    assert f"Not told apart from {', '.join(unclear.tied)}" in unclear.sentence
    for model in unclear.tied:
        assert re.fullmatch(
            r"behind by -?0\.\d{3} \(-?0\.\d{3} to -?0\.\d{3}\); best with a probability of \d+ %",
            unclear.conclusions[model],
        )
    assert unclear.run is not None
    assert unclear.conclusions[unclear.run].startswith("run this one: best with a probability of ")


def test_whether_it_is_good_enough_is_said_where_it_is_not_certain() -> None:
    words = "Whether it reaches an image AUROC of 0.8 is not certain."
    assert words in verdict_on({"only": [drawn(1.3)]}).sentence
    assert words not in verdict_on({"only": [drawn(3.0)]}).sentence


def test_the_text_of_a_verdict_has_its_notes_and_every_model() -> None:
    found = replace(verdict_on({"a": [drawn(2.6)], "longer": None}), notes=("Mind the line.",))
    rows = str(found).splitlines()
    assert rows[:2] == [found.sentence, "Mind the line."]
    assert rows[2].startswith("  a       best: run this one")
    assert rows[3] == "  longer  failed: ModelError in train"
    assert repr(found) == str(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "<1 %"), (0.004, "<1 %"), (0.01, "1 %"), (0.874, "87 %"), (0.99, "99 %"), (0.9999, ">99 %"), (1.0, ">99 %")],
)
def test_no_probability_is_0_or_100_percent(value: float, text: str) -> None:
    assert format_probability(value) == text


def test_numbers_with_and_without_intervals() -> None:
    assert format_number(NONE) == "–"
    assert format_number(Estimate(0.9534, 0.9311, 0.9712, 9)) == "0.953 (0.931–0.971)"
    assert format_number(Estimate(0.9534, n=9)) == "0.953"
