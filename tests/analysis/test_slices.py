from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from raybench.analysis.slices import slice_frame, slices_of
from raybench.metrics.image import ImageScores, share_above
from raybench.metrics.numbers import Threshold

LIMIT = Threshold(0.5, 20, 0.05, 0.05)
NAMES = [f"{at:03}.png" for at in range(80)]
LABELS = ["ok"] * 60 + ["ng"] * 20
CAMERAS = {name: {"camera": "left" if at % 4 else "right", "serial": name} for at, name in enumerate(NAMES)}


def scores(groups: list[str] | None = None) -> ImageScores:
    """Most images of the right camera are above the threshold, whatever they show."""
    values = [
        0.9 if CAMERAS[name]["camera"] == "right" or label == "ng" else 0.1
        for name, label in zip(NAMES, LABELS, strict=True)
    ]
    values[0] = values[-1] = 0.2
    return ImageScores.of(NAMES, LABELS, values, groups)


def test_each_value_is_a_slice_with_the_numbers_of_its_images() -> None:
    images = scores()
    found = slices_of("bottle", "padim", images, LIMIT, CAMERAS)
    assert [(each.attribute, each.value, each.ok, each.ng) for each in found] == [
        ("camera", "left", 45, 15),
        ("camera", "right", 15, 5),
    ]
    left, right = found
    some = images.only(np.array([name for name in NAMES if CAMERAS[name]["camera"] == "left"]))
    assert left.recall == share_above(some, "ng", LIMIT)
    assert left.false_alarm_rate.value == 0.0
    assert right.false_alarm_rate.value == pytest.approx(14 / 15)
    expected = min(1.0, 2 * float(fisher_exact([[14, 1], [0, 45]]).pvalue))
    assert left.p == right.p == pytest.approx(expected)


def test_what_a_line_does_not_say_makes_no_slice() -> None:
    assert slices_of("bottle", "padim", scores(), LIMIT, {}) == []
    assert list(slice_frame([]).columns)[:3] == ["ok", "ng", "recall"]
    partly = {name: {"light": "new"} for name in NAMES[:10]}
    assert [each.value for each in slices_of("bottle", "padim", scores(), LIMIT, partly)] == ["", "new"]


def test_images_of_one_part_are_not_counted_as_independent() -> None:
    found = slices_of("bottle", "padim", scores([f"part {at // 2}" for at in range(80)]), LIMIT, CAMERAS)
    assert [each.p for each in found] == [None, None]
    assert slice_frame(found).loc[("camera", "right"), "ok"] == 15
