from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.analysis import queue
from raybench.analysis.flags import Flag, ScoredImage, build_flags
from raybench.analysis.queue import random_checks, rank_flags, select_diverse
from raybench.metrics.descriptors import SIZE, Descriptors


def flag(image_id: str, usefulness: float, score: float = 1.0) -> Flag:
    return Flag("bolt", image_id, "unknown", ("a",), 1, score, "likely defect", "", usefulness=usefulness)


def traits(values: dict[str, npt.NDArray[np.float64]]) -> Descriptors:
    return Descriptors.of(list(values), [""] * len(values), [values[name].astype(np.float32) for name in values])


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Flag], Descriptors, int]:
    """Images of some kinds, all of one kind alike; some without traits."""
    count = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kinds = rng.normal(size=(draw(st.integers(1, 6)), SIZE))
    flags = [flag(f"{at:02}", float(rng.choice([0.2, 0.5, 1.0])), float(rng.integers(3))) for at in range(count)]
    known = {one.image_id: kinds[rng.integers(len(kinds))] for one in flags if rng.random() < 0.8}
    return flags, traits(known), draw(st.integers(1, 35))


@settings(deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_any_queue(case: tuple[list[Flag], Descriptors, int], random: Random) -> None:
    flags, known, budget = case
    found = rank_flags(flags, known, budget)
    assert sorted(one.image_id for one in found) == sorted(one.image_id for one in flags)
    assert [one.rank for one in found] == list(range(1, len(flags) + 1))
    assert [one.picked for one in found] == [one.rank <= budget for one in found]
    rest = [one.usefulness for one in found if not one.picked]
    assert rest == sorted(rest, reverse=True)
    shuffled = list(flags)
    random.shuffle(shuffled)
    assert rank_flags(shuffled, known, budget) == found


@settings(deadline=None)
@given(cases())
def test_no_double_is_picked_while_another_kind_is_left(case: tuple[list[Flag], Descriptors, int]) -> None:
    flags, known, budget = case
    found = rank_flags(flags, known, budget)
    look = {image: row.tobytes() for image, row in zip(known.image_ids.tolist(), known.values, strict=True)}
    kinds = [look.get(one.image_id, one.image_id.encode()) for one in found]
    picked = kinds[: sum(one.picked for one in found)]
    new = len(set(picked))
    assert len(set(picked[:new])) == new  # first one of each kind, then doubles
    if new < len(picked):
        assert set(kinds) == set(picked)


def test_twenty_scratches_and_one_stain() -> None:
    rng = np.random.default_rng(0)
    scratch, stain = rng.normal(size=SIZE), rng.normal(size=SIZE)
    known = {f"scratch{at:02}": scratch + rng.normal(0, 0.01, SIZE) for at in range(20)} | {"stain": stain}
    flags = [*(flag(f"scratch{at:02}", 0.99) for at in range(20)), flag("stain", 0.7)]
    assert [one.image_id for one in rank_flags(flags, traits(known), 2)][:2] == ["scratch00", "stain"]


def image(image_id: str, label: str = "unknown", pool: str = "0") -> ScoredImage:
    return ScoredImage("bolt", image_id, label, {"a": -1.0}, pool=pool)


def test_random_checks_are_asked_for_in_a_fixed_order() -> None:
    images = [image(f"{index:02}", "unknown" if index < 30 else "ok") for index in range(40)]
    checks = random_checks(images, {"0"}, 6)
    assert len(checks) == 6
    assert checks == random_checks(images[::-1], {"0"}, 6) == random_checks(images, {"0"}, 9)[:6]
    assert random_checks([each for each in images if each != checks[0]], {"0"}, 5) == checks[1:]
    assert random_checks(images[30:], {"0"}, 6) == []


def test_a_pool_is_begun_with_enough_checks_or_not_at_all() -> None:
    images = [image(f"{pool}-{index:02}", pool=pool) for pool in ("0", "3", "11") for index in range(20)]
    for count, expected in ((4, [4, 0, 0]), (5, [0, 5, 0]), (9, [4, 5, 0]), (10, [0, 5, 5]), (14, [4, 5, 5])):
        pools = [each.pool for each in random_checks(images, {"0"}, count)]
        if count >= 14:  # those beyond what begins a pool go by number
            assert pools[:10] == ["3"] * 5 + ["11"] * 5
            assert len(pools) == 14
        elif count in (9,):
            assert pools[:5] == ["3"] * 5
            assert "11" not in pools
        else:
            assert [pools.count(pool) for pool in ("0", "3", "11")] == expected


def test_random_checks_are_spread_among_the_others() -> None:
    checks = build_flags([image(name) for name in ("x", "y", "z")], at_random=True)
    assert [check.kind for check in checks] == ["random check"] * 3
    flags = [*(flag(f"useful{index}", 0.9 - index / 100) for index in range(9)), flag("y", 1.0)]
    found = rank_flags(flags, Descriptors.empty(), 10, checks)
    names = [one.image_id for one in found]
    assert [names.index(name) for name in ("x", "y", "z")] == [1, 5, 8]
    assert names == list(dict.fromkeys(names))
    assert [one.picked for one in found] == [True] * 10 + [False] * 2
    assert found[5].kinds == ("random check",)


def test_without_traits_the_most_useful_come_first() -> None:
    flags = [flag("b", 0.5), flag("c", 0.9), flag("a", 0.5), flag("d", 0.5, score=2.0)]
    assert [one.image_id for one in rank_flags(flags, Descriptors.empty(), 2)] == ["c", "d", "a", "b"]


def test_a_budget_beyond_the_greedy_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "GREEDY", 2)
    points = np.array([[0.0], [0.0], [0.9], [0.5]])
    assert select_diverse(np.array([1.0, 0.9, 0.8, 0.7]), points, 4) == [0, 2, 3, 1]


def test_a_hundred_thousand_flags_need_no_table_of_their_squares() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(100_000, 4))
    assert len(set(select_diverse(rng.random(100_000) + 0.1, points, 20))) == 20
