from __future__ import annotations

from raybench.analysis.flags import ScoredImage
from raybench.report.pictures import (
    BESIDE,
    PICTURES,
    PICTURES_PER_LINE,
    UNITS,
    beside_per_line,
    chosen,
    mistake,
    models_per_line,
    pictures_per_line,
)


def image(name: str, label: str, excess: float) -> ScoredImage:
    return ScoredImage("line", name, label, {"named": excess, "other": 1.0})


IMAGES = [
    image("hit", "ng", 3.0), image("alarm", "ok", 2.0), image("unlabelled", "unknown", 1.0), image("near", "ng", 0.0),
    image("quiet", "ok", -1.0), image("missed", "ng", -2.0),
]  # fmt: skip


def test_mistakes_are_shown_beside_the_most_anomalous_images() -> None:
    assert [each.image_id for each in chosen(IMAGES, "named", 4)] == ["hit", "alarm", "unlabelled", "missed"]
    assert [each.image_id for each in chosen(IMAGES, None, 2)] == ["hit", "alarm"]
    assert chosen(IMAGES, "named", 10) == IMAGES


def test_the_queue_is_shown_before_the_most_anomalous_images() -> None:
    found = chosen(IMAGES, "named", 4, ["quiet", "missed", "training"])
    assert [each.image_id for each in found] == ["hit", "alarm", "quiet", "missed"]  # two mistakes, one of the queue
    assert [each.image_id for each in chosen(IMAGES, None, 4, ["quiet", "near"])] == ["hit", "alarm", "near", "quiet"]


def test_an_image_at_the_threshold_is_not_flagged() -> None:
    assert [mistake(each.label, each.excess["named"]) for each in IMAGES] == [
        "", "false alarm", "", "missed", "", "missed"
    ]  # fmt: skip
    assert mistake("ng", None) == ""


def test_many_lines_show_less_of_each() -> None:
    assert (pictures_per_line(1), models_per_line(1)) == (PICTURES_PER_LINE, UNITS)
    assert pictures_per_line(50) * 50 <= PICTURES
    assert models_per_line(50) * 50 <= UNITS
    assert beside_per_line(50) * 50 <= BESIDE
    assert (pictures_per_line(5000), models_per_line(5000)) == (1, 1)
