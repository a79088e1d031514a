from __future__ import annotations

import base64

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raybench.analysis.findings import HeldOut, collect_held_out
from raybench.analysis.flags import ScoredImage
from raybench.config.experiment import ThresholdChoice
from raybench.metrics.image import ImageScores
from raybench.metrics.numbers import Threshold
from raybench.report.scores import MISSING, STEPS, encode, page_scores
from tests.support.results import made_unit

THRESHOLD = Threshold(2.0, 3, 0.05, 0.25, 1.0)


@given(st.lists(st.floats(-1e6, 10) | st.sampled_from([0.0, -0.0, 5e-324, -5e-324]), min_size=1))
def test_codes_keep_order_ties_and_decisions(values: list[float]) -> None:
    excess = np.array(values)
    codes = encode(excess)
    assert codes is not None
    order = np.argsort(excess, kind="stable")
    steps, gaps = np.diff(codes[order].astype(int)), np.diff(excess[order])
    assert ((steps > 0) == (gaps > 0)).all()
    assert (steps >= 0).all()
    assert ((codes > 0) == (excess > 0)).all()
    assert (codes != MISSING).all()


def test_codes_lie_where_the_scores_do() -> None:
    excess = np.concatenate([np.linspace(-3, 10, 2000), [np.nan]])
    codes = encode(excess)
    assert codes is not None
    assert codes[-1] == MISSING
    assert np.abs(np.sinh(codes[:-1] / STEPS) - excess[:-1]).max() < 0.002


def test_more_values_than_codes_are_refused() -> None:
    assert encode(np.linspace(-1, -0.5, 40_000)) is None


def test_a_million_decisions_are_those_of_the_scores() -> None:
    excess = np.random.default_rng(0).normal(-0.5, 1, 1_000_000).round(3)
    codes = encode(excess)
    assert codes is not None
    for limit in (-1.2, 0.0, 0.7):
        at_limit = codes[np.argmin(np.abs(excess - limit))]
        assert ((codes > at_limit) == (excess > excess[np.argmin(np.abs(excess - limit))])).all()


def test_the_scores_of_a_line() -> None:
    seen = [
        ScoredImage("cap", "b", "ng", {"padim": 1.0, "dfm": -1.0}, group="part 1"),
        ScoredImage("cap", "a", "unknown", {"padim": -0.5}, group="part 1"),
    ]
    held_out = {"padim": HeldOut(0, THRESHOLD, (-1.0, -0.5, 0.0), (0, 0, 1))}
    found = page_scores(seen, held_out, ["dfm", "padim"])
    assert found is not None
    assert (found.ids, found.labels, found.groups) == (("b", "a"), "12", (0, 0))
    (model,) = found.models  # dfm has no threshold
    codes = [np.frombuffer(base64.b64decode(text), "<i2").tolist() for text in (model.excess, model.held_out)]
    assert codes[0][1] == codes[1][1] < codes[1][2] == 0 < codes[0][0]
    assert model.held_out_groups == (0, 0, 1)
    assert page_scores(seen, {}, ["padim"]) is None


def test_the_first_seed_with_a_threshold_counts() -> None:
    images = ImageScores.of(["a", "b"], ["ok", "ok"], [1.0, 3.0])
    units = [
        (made_unit("2", "cap", "padim", 2, threshold=THRESHOLD), images),
        (made_unit("1", "cap", "padim", 1, threshold=THRESHOLD), ImageScores.empty()),
        (made_unit("0", "cap", "padim", 0, threshold=Threshold(None, 0, 0.05, 0.0)), images),
        (made_unit("3", "cap", "dfm", 0, threshold=THRESHOLD), images),
    ]
    found = collect_held_out(units, {"cap": ThresholdChoice()})["cap"]
    assert (found["padim"].seed, found["padim"].excess) == (1, ())
    assert found["dfm"].excess == (-1.0, 1.0)
