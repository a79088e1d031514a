from __future__ import annotations

import random

import pytest

from raybench.analysis.predictions import TOP, PredictionCounts, is_odd, score_shift, sentence
from raybench.data.manifest import Manifest
from raybench.metrics.exchangeability import ThresholdTest
from raybench.metrics.numbers import Estimate, Threshold
from raybench.runs.scores import Predicted
from raybench.runs.thresholds import UsedThreshold


def row(name: str, score: float, odd_size: bool = False) -> Predicted:
    return Predicted(name, "bolt", "fake", score, score > 1.0, 1.0, score - 1.0, 10, 10, odd_size)


def line(heights: tuple[int, int], widths: tuple[int, int]) -> Manifest:
    return Manifest("bolt", 2, "folder", {}, 0, heights[0], widths[0], heights[0], widths[0], heights[1], widths[1],
                    255, (), ())  # fmt: skip


def test_the_highest_scores_are_kept_whatever_their_order() -> None:
    rows = [row(f"{at:04}", at / 100) for at in range(500)]
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    tally = PredictionCounts()
    for at, one in enumerate(shuffled):
        tally.add(one, f"shard-{at % 3}", f"{at:064x}")
    assert [found for found, _ in tally.top] == rows[: -TOP - 1 : -1]
    assert all(shard == f"shard-{shuffled.index(found) % 3}" for found, shard in tally.top)
    assert (tally.images, tally.anomalous, tally.odd_sizes) == (500, 399, 0)


def test_of_equal_scores_the_first_stays() -> None:
    tally = PredictionCounts()
    for at in range(3 * TOP):
        tally.add(row(f"{at:03}", 2.0, odd_size=at == 0), "shard", f"{at:064x}")
    assert [found.image_id for found, _ in tally.top] == [f"{at:03}" for at in range(TOP)]
    assert tally.odd_sizes == 1


@pytest.mark.parametrize(
    ("size", "odd"),
    [
        ((200, 300), False),
        ((400, 600), False),  # twice as many pixels a side
        ((100, 150), False),
        ((402, 603), True),
        ((98, 147), True),
        ((300, 200), True),  # on its side
        ((200, 326), False),
        ((200, 335), True),  # more than a tenth wider
        ((200, 268), True),
    ],
)
def test_sizes_that_a_line_of_one_size_does_not_have(size: tuple[int, int], odd: bool) -> None:
    assert is_odd(*size, line((200, 200), (300, 300))) == odd


def test_a_line_of_many_sizes_allows_what_it_has() -> None:
    mixed = line((100, 400), (100, 400))
    assert not is_odd(100, 400, mixed)
    assert not is_odd(400, 100, mixed)
    assert is_odd(900, 400, mixed)


def test_the_sentence() -> None:
    threshold = UsedThreshold(Threshold(1.0, 100, 0.05, 0.0495, 0.5, "note"))
    assert sentence(500, 37, threshold) == (
        "37 of 500 images are anomalous at the threshold that promises at most 4.95 % false alarms"
    )
    assert sentence(1, 1, threshold).startswith("1 of 1 image is anomalous")
    assert sentence(0, 0, threshold) == "no image is scored"
    none = UsedThreshold(Threshold(None, 0, 0.05, 0.0, None, "no held-back OK images"))
    assert sentence(9, 0, none) == "9 images are scored; none can be called anomalous: no held-back OK images"


def test_the_sentence_says_what_is_known_of_the_threshold() -> None:
    threshold = Threshold(1.0, 100, 0.05, 0.0495, 0.5, "note")

    def told(alarms: Estimate, many: float = 0.5, low: float = 0.5) -> str:
        return sentence(10, 1, UsedThreshold(threshold, alarms, ThresholdTest(many, low)))

    held, all_alarms = Estimate(0.075, 0.016, 0.204, 40), Estimate(0.55, 0.38, 0.71, 40)
    assert told(held).endswith("at most 4.95 % false alarms, and had 8% (2%–20%) on 40 OK test images")
    assert told(all_alarms, many=1e-9).endswith(
        "false alarms, but its threshold does not hold: 55% false alarms on 40 OK test images, 5% promised (p = 1e-09)"
    )
    assert "false alarms, but its threshold is too high: " in told(Estimate(0.0, 0.0, 0.1, 40), low=1e-9)
    unknown = Estimate(None, reason="no OK images")
    assert told(unknown) == sentence(10, 1, UsedThreshold(threshold))


def test_new_images_that_score_unlike_those_of_the_line_are_told() -> None:
    held_out = [number / 40 for number in range(40)]
    assert score_shift([0.1, 0.3, 0.5, 0.5, 0.6, 0.7, 0.9, 9.0], held_out) == ""
    assert score_shift([number + 2.0 for number in held_out], held_out).startswith(
        "half of the new images score above 100% of the held-back OK images"
    )
    assert "score below 100%" in score_shift([number - 2.0 for number in held_out], held_out)
    assert score_shift([9.0] * 7, held_out) == ""  # too few to tell
    assert score_shift([9.0] * 9, held_out[:3]) == ""
