from __future__ import annotations

from dataclasses import replace

from raybench.analysis.rows import merge_seeds
from raybench.detectors.protocol import TrainSteps
from tests.support.results import images, result


def test_of_several_seeds_the_fewest_steps_are_told() -> None:
    cut_short = TrainSteps(312, 1000, 60.0)
    one = replace(result("m", images(2.0)), steps=TrainSteps(1000, 1000))
    assert merge_seeds([result("m", images(2.0))]).steps is None
    assert merge_seeds([one, replace(one, seed=1, steps=cut_short), replace(one, seed=2)]).steps == cut_short
