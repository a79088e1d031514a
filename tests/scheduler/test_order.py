"""Longest first and fair: what holds for any units, and against the order given on made-up plants."""

from __future__ import annotations

import random
import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from raybench.config.unit import Unit
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.order import in_order
from raybench.scheduler.simulate import FreeCapacity, ResourceRequest, simulate
from tests.support.backlog import manifest, unit

COSTS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 500)), max_size=20)


class Table:
    """Costs by unit_id: a Unit holds mappings and cannot be hashed."""

    def __init__(self, costs: list[tuple[str, int]]) -> None:
        self.units = [unit(line, seed) for seed, (line, _) in enumerate(costs)]
        self.costs = {one.unit_id: float(cost) for one, (_, cost) in zip(self.units, costs, strict=True)}

    def __call__(self, one: Unit) -> float:
        return self.costs[one.unit_id]


@settings(deadline=None, max_examples=50)
@given(COSTS)
def test_every_unit_once_and_longest_first_within_a_line(costs: list[tuple[str, int]]) -> None:
    table = Table(costs)
    order = in_order(table.units, table)
    assert sorted(one.seed for one in order) == list(range(len(costs)))
    assert order == in_order(table.units, table)
    for line in {line for line, _ in costs}:
        mine = [(-table(one), one.seed) for one in order if one.line == line]
        assert mine == sorted(mine)


@settings(deadline=None, max_examples=50)
@given(COSTS)
def test_no_line_falls_behind(costs: list[tuple[str, int]]) -> None:
    """When a unit is started, every line that has units left has begun at least the share of its work that the unit's
    own line had before it."""
    table = Table(costs)
    total = {line: sum(cost for name, cost in costs if name == line) for line, _ in costs}
    begun = dict.fromkeys(total, 0.0)
    left = {line: sum(name == line for name, _ in costs) for line in total}
    for one in in_order(table.units, table):
        turn = begun[one.line] / (total[one.line] or 1)
        assert all(begun[line] / (total[line] or 1) >= turn - 1e-9 for line in total if left[line])
        begun[one.line] += table(one)
        left[one.line] -= 1


def test_without_any_record_the_order_given_stays() -> None:
    units = [unit(line, seed) for seed in range(3) for line in "ba"]
    assert in_order(units, lambda one: 0.0) == units


def makespan(order: list[Unit], table: Table, slots: int) -> float:
    lines = {one.line: manifest(one.line, 0) for one in order}

    def demand(job: Job) -> ResourceRequest:
        return ResourceRequest(table(job.unit) if job.phase == "train" else 0.0)

    return simulate(Backlog(order, lines, {}), FreeCapacity(slots, 0.0, 1), demand).wall_s


def test_it_ends_no_later_than_the_order_given_on_average() -> None:
    """Plants of unequal lines and models; against the order given, and against the bound that no order can beat."""
    rng = random.Random(7)
    ours, given_order, bounds = [], [], []
    for _ in range(20):
        sizes = {line: rng.lognormvariate(0, 0.5) for line in "abcdef"}
        models = [rng.lognormvariate(3, 1) for _ in range(10)]
        table = Table([(line, round(100 * size * model)) for model in models for line, size in sizes.items()])
        slots = rng.choice([2, 4, 8])
        ours.append(makespan(in_order(table.units, table), table, slots))
        given_order.append(makespan(table.units, table, slots))
        bounds.append(max(sum(table.costs.values()) / slots, max(table.costs.values())))
    assert statistics.mean(ours) < statistics.mean(given_order)
    assert statistics.mean(a / b for a, b in zip(ours, bounds, strict=True)) < 1.05


def test_with_one_line_it_is_graham_s_bound() -> None:
    """4/3 - 1/(3m) of the best schedule, here known: m slots that are filled exactly."""
    rng = random.Random(3)
    for slots in (2, 3, 5):
        parts: list[int] = []
        for _ in range(slots):
            cuts = sorted(rng.sample(range(1, 1000), 4))
            parts += [b - a for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)]
        rng.shuffle(parts)
        table = Table([("a", part) for part in parts])
        ended = makespan(in_order(table.units, table), table, slots)
        assert 1000 <= ended <= 1000 * (4 / 3 - 1 / (3 * slots)) + 1e-6
