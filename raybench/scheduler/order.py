"""The longest unit first, and no line behind the others.

Longest first is the rule of R. L. Graham, "Bounds on multiprocessing timing anomalies" (SIAM J. Appl. Math. 17, 1969):
the last slot to end does so at most 4/3 - 1/(3m) times as late as in the best schedule on m slots. Between lines the
rule is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, 1996), a line being a flow whose weight is its work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from raybench.config.unit import Unit


def in_order(units: Sequence[Unit], cost_s: Callable[[Unit], float]) -> list[Unit]:
    """`units` in the order in which to start them. cost_s: predicted, not negative.

    A unit's turn is the share of its line's work that comes before it, the longest units first. Of equal turns the
    longest unit goes first, of equal units the one that was given first.
    """
    costs = [cost_s(unit) for unit in units]
    of_line: defaultdict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        of_line[unit.line].append(at)
    turns = [0.0] * len(units)
    for places in of_line.values():
        total, before = sum(costs[at] for at in places) or 1.0, 0.0
        for at in sorted(places, key=lambda at: (-costs[at], at)):
            turns[at] = before / total
            before += costs[at]
    return [units[at] for at in sorted(range(len(units)), key=lambda at: (turns[at], -costs[at], at))]
