"""What keeping the aspect is worth, measured on the same images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raybench.analysis.board import BoardContext, build_board
from raybench.analysis.squash_baseline import SquashBaseline
from raybench.data.geometry import Input
from raybench.metrics.numbers import Estimate
from tests.support.results import done, images, result


def test_the_gain_over_squashed_images_stands_on_the_board() -> None:
    kept, squashed = images(3.0), images(0.5)
    chosen = result("m", kept, ms=12.0, au_pro=Estimate(0.9, 0.8, 1.0, 10))
    other = replace(
        result("m (squashed)", squashed, ms=8.0, au_pro=Estimate(0.7, 0.6, 0.8, 10)),
        input=Input("squash", 96, 96, 300, 600),
    )
    context = BoardContext("night", "2026-11-24", "0" * 64, {}, 0.05)
    board = build_board([chosen], {chosen.unit_id: kept}, context, [SquashBaseline(chosen, other, kept, squashed)])
    found = done(board.rows[0]).non_square
    assert found.gain is not None
    expected = (chosen.judged.quality.image_auroc.value or 0) - (other.judged.quality.image_auroc.value or 0)
    assert found.gain.value == pytest.approx(expected)
    assert (found.gain.low or 0) > 0
    assert found.au_pro_gain == pytest.approx(0.2)
    assert found.time_ratio == pytest.approx(1.5)
    assert "against squashed: +0." in found.text
    assert "+0.200 AU-PRO" in found.text
    assert "1.5× the time" in found.text


def test_without_ng_images_only_the_time_is_told() -> None:
    kept = images(0.0, ng=0)
    chosen, other = result("m", kept), result("m (squashed)", kept, ms=20.0)
    context = BoardContext("night", "2026-11-24", "0" * 64, {}, 0.05)
    board = build_board([chosen], {chosen.unit_id: kept}, context, [SquashBaseline(chosen, other, kept, kept)])
    assert done(board.rows[0]).non_square.text == "aspect kept: 300×600 as 64×128; against squashed: 0.5× the time"
