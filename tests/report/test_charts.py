from __future__ import annotations

import itertools
import re

from raybench.analysis.flags import ScoredImage
from raybench.report.charts import LABELS_APART, SIDE, excess_ticks, place_of_threshold, recall_curves, strips

SEEN = [
    ScoredImage(
        "a", f"{at}", ("ok", "ng", "unknown")[at % 3], {"x": at % 17 / 6 - 1.9 + at / 300, "y": float(at % 3 == 1)}
    )
    for at in range(60)
]


def places(path: str) -> list[int]:
    return [int(place) for place in re.findall(r"M(\d+) ", path)]


def test_a_strip_has_a_tick_for_each_score() -> None:
    strip = strips(SEEN, ["x"])[0]
    above = sum(image.excess["x"] > 0 for image in SEEN if image.label == "ng")
    assert sum(place > place_of_threshold() for place in places(strip.ng)) == above
    assert len(places(strip.ok)) == len(places(strip.unlabelled)) == 20
    assert strip.words.startswith(f"above the threshold: {above} of 20 NG")


def test_scores_beyond_the_strip_lie_at_its_ends() -> None:
    far = [ScoredImage("a", "1", "ok", {"x": -50.0}), ScoredImage("a", "2", "ok", {"x": 100.0})]
    assert places(strips(far, ["x"])[0].ok) == [0, SIDE]


def test_a_model_without_scores_has_no_strip() -> None:
    assert strips(SEEN, ["z"]) == ()


def test_the_ticks_rise() -> None:
    places_of_ticks = [place for place, _ in excess_ticks()]
    assert places_of_ticks == sorted(places_of_ticks)
    assert {text: place for place, text in excess_ticks()}["0"] == place_of_threshold() / SIDE * 100


def test_a_perfect_curve_is_at_the_top() -> None:
    perfect, _ = recall_curves(SEEN, ["x", "y"])
    assert perfect.model == "y"
    assert perfect.path == "M0 1000V0H1000"


def test_names_of_curves_do_not_overlap() -> None:
    found = recall_curves([*SEEN], ["x", "y", "x", "x", "y"])
    labels = [curve.label for curve in found]
    assert all(after - before >= LABELS_APART - 0.11 for before, after in itertools.pairwise(labels))
    assert max(labels) <= 100
    many = [curve.label for curve in recall_curves(SEEN, ["x"] * 40)]
    assert min(many) >= 0
    assert max(many) <= 100
    assert min(after - before for before, after in itertools.pairwise(many)) > 2.3
