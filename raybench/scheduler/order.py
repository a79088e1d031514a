"""Order units: the longest first, and no line behind the others.

Longest first is the rule of R. L. Graham, "Bounds on multiprocessing timing anomalies" (SIAM J. Appl. Math. 17, 1969):
the last slot ends at most 4/3 - 1/(3m) times as late as in the best schedule on m slots. Between lines the
rule is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, 1996), a line being a flow whose weight is its work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from raybench.config.unit import Unit


def in_order(units: Sequence[Unit], cost_s: Callable[[Unit], float]) -> list[Unit]:
    """Return `units` in the order in which to start them.

    A unit's turn is the share of its line's work that comes before it, the longest units first. Of equal turns the
    longest unit goes first, of equal units the one that was given first.

    Args:
        units: in any order.
        cost_s: estimated seconds of a unit, not negative.
    """
    costs = [cost_s(unit) for unit in units]
    indices_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, unit in enumerate(units):
        indices_of[unit.line].append(index)
    turns = [0.0] * len(units)
    for indices in indices_of.values():
        total, before = sum(costs[index] for index in indices) or 1.0, 0.0
        for index in sorted(indices, key=lambda index: (-costs[index], index)):
            turns[index] = before / total
            before += costs[index]
    return [units[index] for index in sorted(range(len(units)), key=lambda index: (turns[index], -costs[index], index))]
