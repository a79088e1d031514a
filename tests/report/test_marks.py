from __future__ import annotations

import pytest

from raybench.metrics.numbers import Estimate
from raybench.report.html import template
from raybench.report.marks import AUROC, SHARE, Axis, blocks, decades, dot, efficient, span, terms


def test_a_dot_lies_where_its_value_is() -> None:
    mark = dot("recall", Estimate(0.5, 0.25, 0.75, 16), SHARE)
    assert (mark.at, mark.start, mark.end, mark.below, mark.above) == (50, 25, 75, False, False)
    assert mark.title == "recall 0.500, 95 % interval 0.250 to 0.750, n = 16"


def test_what_lies_beyond_the_axis_is_pointed_at() -> None:
    mark = dot("image AUROC", Estimate(0.55, 0.3, 0.7), AUROC)
    assert (mark.at, mark.start, mark.below, mark.above) == (10, 0, True, False)


def test_an_undefined_number_says_why() -> None:
    mark = dot("recall", Estimate(None, reason="no NG images"), SHARE)
    assert (mark.text, mark.at, mark.value) == ("–", None, None)
    assert mark.title == "recall: no NG images"


def test_a_number_without_interval_is_a_dot_alone() -> None:
    mark = dot("ms", 100.0, Axis(10, 1000, is_log=True), ",.3g")
    assert (mark.at, mark.start, mark.text) == (50, None, "100")


def test_a_logarithmic_axis_has_whole_decades() -> None:
    assert (decades([12, None, 237]).low, decades([12, None, 237]).high) == (10, 1000)
    assert decades([10]).labels == ((0, "10"), (100, "100"))
    assert decades([]).ticks == (1, 10)
    assert decades([0.02, 3.0]).ticks == (0.01, 10)


def test_models_that_no_other_beats() -> None:
    costs, qualities = [10.0, 20.0, 20.0, None, 5.0], [0.9, 0.95, 0.9, 0.99, None]
    assert efficient(costs, qualities) == [True, True, False, False, False]
    assert efficient([1.0, 1.0], [0.5, 0.5]) == [True, True]


def test_a_span_holds_its_dot() -> None:
    mark = span((2, 4), 5, Axis(1, 5))
    assert (mark.text, mark.start, mark.end, mark.at) == ("2–4", 25, 75, 75)


def test_terms_of_the_utility_lie_on_both_sides_of_the_middle() -> None:
    first, second = terms({"image AUROC": 0.9, "time": -0.2, "size": 0.0}, {"image AUROC": 0.8})
    assert first.start == 50
    assert first.width == pytest.approx(25)
    assert (second.name, second.start, second.width) == ("time", 0, 50)


def test_a_line_without_heat_maps_has_no_blocks() -> None:
    assert blocks(None).filled == 0


def test_a_mark_escapes_its_words() -> None:
    marks = template("marks.html.j2").module
    html = str(marks.dot(dot('<b>"', Estimate(1.5, 0.2, 2.0), SHARE)))  # type: ignore[attr-defined]
    assert "<b>" not in html
    assert '<circle cx="100.0%"' in html
    assert html.count("<path") == 1  # an arrow at the upper end
