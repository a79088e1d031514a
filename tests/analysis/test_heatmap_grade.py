from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from raybench.analysis.heatmap_grade import WORDS, HeatmapGrade, heatmap_grade
from raybench.metrics.numbers import Estimate, Quality

NONE = Estimate(None, reason="no masks")
shares = st.floats(0, 1)


def word(au_pro: float | None, around: float | None, ok: float | None) -> HeatmapGrade | None:
    given_ = {"au_pro": au_pro, "noise_around": around, "noise_ok": ok}
    numbers = {name: NONE if value is None else Estimate(value) for name, value in given_.items()}
    return heatmap_grade(Quality(**dict.fromkeys((each.name for each in fields(Quality)), NONE) | numbers))


def test_the_worst_grade_is_the_word() -> None:
    assert str(word(0.95, 0.05, 0.2)) == "accurate"
    assert str(word(0.9, 0.1, 0.4)) == "accurate"
    assert str(word(0.85, 0.05, 0.2)) == "a little noisy"
    assert str(word(0.95, 0.3, 0.2)) == "noisy"
    assert str(word(0.95, 0.05, 0.95)) == "unusable"
    found = word(0.7, 0.05, 0.2)
    assert found is not None
    assert (found.word, found.why) == ("noisy", "AU-PRO 0.70")


def test_without_masks_the_rest_decides_and_is_marked() -> None:
    assert str(word(None, None, 0.2)) == "accurate (without masks)"
    assert str(word(None, None, 0.95)) == "unusable (without masks)"
    assert word(None, None, None) is None


@given(shares, shares, shares, shares, shares, shares)
def test_a_better_map_never_gets_a_worse_word(
    au_pro: float, more: float, around: float, less: float, ok: float, fewer: float
) -> None:
    one, better = word(au_pro, around, ok), word(max(au_pro, more), min(around, less), min(ok, fewer))
    assert one is not None
    assert better is not None
    assert WORDS.index(better.word) <= WORDS.index(one.word)
    assert better.worth >= one.worth
