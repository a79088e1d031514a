from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raybench.analysis.rows import mean_number, merge_seeds
from raybench.data.geometry import Input
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.numbers import Estimate
from raybench.runs.records import FailedUnit
from tests.support.results import FAILURE, NONE, altered, done, images, result


def width(number: Estimate) -> float:
    assert number.low is not None
    assert number.high is not None
    return number.high - number.low


def number(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), 40)


def test_seeds_are_averaged_and_failed_ones_kept() -> None:
    first, second = result("m", images(3.0)), result("m", images(1.0), seed=1)
    failed = FailedUnit("x", "bolt", "m", 2, FAILURE)
    merged = merge_seeds([first, second, failed])
    assert merged.seeds == (0, 1)
    assert merged.failures == (FAILURE,)
    values = [one.judged.quality.image_auroc.value or 0 for one in (first, second)]
    assert done(merged).quality.image_auroc.value == pytest.approx(np.mean(values))


def test_one_seed_keeps_its_interval() -> None:
    found = mean_number([Estimate(0.9, 0.85, 0.94, 40)])
    assert [found.value, found.low, found.high] == pytest.approx([0.9, 0.85, 0.94])
    assert found.n == 40


def test_more_seeds_narrow_the_interval_and_never_below_that_of_the_images() -> None:
    values = [0.86, 0.90, 0.94]
    widths = [width(mean_number([number(value) for value in values * times])) for times in (1, 2, 4, 16)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(0.1, abs=0.005)
    assert widths[0] > 0.11


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_interval_holds_the_mean(values: list[float]) -> None:
    found = mean_number([number(value) for value in values])
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 1


@pytest.mark.parametrize(("spread", "seeds"), [(0.01, 2), (0.01, 3), (0.04, 6), (0.04, 10)])
def test_the_interval_covers_the_mean_over_trainings(spread: float, seeds: int) -> None:
    """Images are known exactly, so the interval is that of the seeds: it learns that they differ more than assumed."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = mean_number([number(value, 0.0) for value in 0.85 + spread * rng.standard_normal(seeds)])
        hits += (found.low or 0.0) <= 0.85 <= (found.high or 1.0)
    assert hits / 400 >= 0.86


def test_undefined_numbers_stay_undefined() -> None:
    assert mean_number([NONE, NONE]) == NONE
    assert mean_number([NONE, Estimate(0.5, 0.4, 0.6, 9)]).value == 0.5
    assert mean_number([Estimate(0.5, n=9), Estimate(0.7, n=9)]) == Estimate(0.6, n=9)


def test_test_minutes_and_aspect() -> None:
    found = done(merge_seeds([result("m", images(3.0), ms=30.0)]))
    assert found.test_minutes == pytest.approx(60e-3 * 80 / 60)
    assert found.non_square.text == "aspect kept: 300×600 as 64×128"
    squashed = replace(result("m", images(3.0)), input=Input("squash", 64, 64, 300, 600))
    assert done(merge_seeds([squashed])).non_square.text == "squashed: 300×600 as 64×64"
    square = replace(result("m", images(3.0)), input=Input("native", 64, 64, 300, 300))
    assert done(merge_seeds([square])).non_square.text == "square line, 64×64"


def test_of_several_seeds_the_fewest_steps_are_told() -> None:
    cut_short = TrainSteps(312, 1000, 60.0)
    one = altered(result("m", images(2.0)), steps=TrainSteps(1000, 1000))
    assert done(merge_seeds([result("m", images(2.0))])).steps is None
    seeds = [one, altered(one, seed=1, steps=cut_short), replace(one, seed=2)]
    assert done(merge_seeds(seeds)).steps == cut_short
