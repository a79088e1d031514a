"""Which actor merges which unit; any objects do for actors."""

from __future__ import annotations

from collections import Counter

from raybench.scheduler.mergers import SLOTS_EACH, Mergers


def start(number: int) -> str:
    return f"other {number}"


def test_on_a_small_cluster_one_actor_does_all() -> None:
    mergers = Mergers("root", start)
    assert {mergers.of(str(unit), SLOTS_EACH) for unit in range(100)} == {"root"}


def test_on_a_large_one_each_unit_has_its_own_and_all_have_as_many() -> None:
    mergers = Mergers("root", start)
    first = [mergers.of(str(unit), 4 * SLOTS_EACH) for unit in range(100)]
    assert Counter(first) == {start(number): 25 for number in range(4)}
    assert [mergers.of(str(unit), 4 * SLOTS_EACH) for unit in range(100)] == first


def test_who_has_done_most_gets_the_next() -> None:
    mergers = Mergers("root", start)
    at = {unit: mergers.of(unit, 2 * SLOTS_EACH) for unit in ("a", "b", "c", "d")}
    for unit in ("b", "d"):
        mergers.leave(unit)
    assert at["b"] == at["d"] == mergers.of("e", 2 * SLOTS_EACH)
    mergers.leave("never seen")


def test_the_tree_grows_with_the_cluster_and_units_under_way_stay_where_they_are() -> None:
    mergers = Mergers("root", start)
    assert mergers.of("a", 1) == "root"
    assert mergers.of("b", SLOTS_EACH + 1) == start(0)
    assert mergers.of("c", 3 * SLOTS_EACH) == start(1)
    assert mergers.of("a", 3 * SLOTS_EACH) == "root"
    mergers.leave("a")
    assert mergers.of("a", 1) == start(2)  # a smaller cluster keeps them
