"""Which units begin at all: a budget must not be passed, and models that surely cannot be the best leave a race."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from raybench.analysis.findings import analyze
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.errors import InputError
from raybench.runs.records import Phase
from raybench.runs.run import RunStore
from raybench.scheduler.backlog import Answer
from raybench.scheduler.capacity import Capacity
from raybench.scheduler.estimate import Schedule, round_of, seconds_left

HOUR_S = 3600.0


@dataclass
class Budget:
    """A limit to the hours of what is paid for: GPUs, or CPU cores where no GPU is used.

    A unit begins if what has been used, what units under way will still use, and what it will use itself, keep the
    limit. A unit that nothing is recorded of is taken to use what those of its model have used in this command, or else
    what all have.
    """

    limit_h: float
    """Most hours."""
    estimated_h: Callable[[Unit, bool], float | None]
    """Hours that a unit takes, with or without the fitting of its detector for several lines; None if nothing is
    recorded to estimate from."""
    used_h: float = 0.0
    """Hours used so far, by tasks that have ended."""
    _reserved: dict[str, float] = field(default_factory=dict)
    """Hours expected of units under way, by unit_id."""
    _used: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Hours used by units under way, by unit_id."""
    _fits: set[str] = field(default_factory=set)
    """Detectors for several lines whose fitting is a part of a unit that has begun, by fit_id."""
    _ended: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Hours used by each unit that has ended, by model."""

    def answer(self, unit: Unit) -> Answer:
        """Return whether the unit begins, and reserve its hours, or `budget`."""
        expected = self._expected(unit)
        open_h = sum(max(0.0, hours - self._used[unit_id]) for unit_id, hours in self._reserved.items())
        if self.used_h + open_h + expected > self.limit_h:
            return "budget"
        self._reserved[unit.unit_id] = expected
        self._fits.add(unit.fit_id)
        return "begin"

    def ended(self, unit: Unit) -> None:
        """Free what the unit had reserved, and learn what units of its model use."""
        self._reserved.pop(unit.unit_id, None)
        self._ended[unit.model].append(self._used.pop(unit.unit_id, 0.0))

    def charge(self, unit: Unit, hours: float) -> None:
        """Count what a task of the unit has used."""
        self.used_h += hours
        self._used[unit.unit_id] += hours

    def _expected(self, unit: Unit) -> float:
        hours = self.estimated_h(unit, unit.fit_id not in self._fits)
        if hours is not None:
            return hours
        alike = self._ended[unit.model] or [used for of_model in self._ended.values() for used in of_model]
        return sum(alike) / len(alike) if alike else 0.0


class Race:
    """Leaves out further seeds of models that surely cannot be the best on a line.

    Once all units of a line's first seeds have ended, a model runs the next seed only if the probability that no other
    model is better by more than the margin is not below the risk.
    """

    def __init__(self, plan: Plan, run: RunStore, risk: float, done: Collection[str]) -> None:
        """Begin a race.

        Args:
            plan: All units of the run.
            run: The run.
            risk: Probability below which a model leaves.
            done: IDs of the units that are finished.
        """
        self.plan, self.run, self.risk = plan, run, risk
        self._round = round_of(plan.units)
        self._open: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        self._standing: dict[tuple[str, int], Future[Mapping[str, float]]] = {}
        self._pool = ThreadPoolExecutor(1)  # the driver goes on with other lines meanwhile
        for unit in plan.units:
            if unit.unit_id not in done:
                self._open[unit.line, self._round[unit.unit_id]].add(unit.unit_id)

    def answer(self, unit: Unit) -> Answer:
        """Return whether the unit begins, waits for the seeds before its own, or is left out of the race."""
        number = self._round[unit.unit_id]
        if not number:
            return "begin"
        if any(self._open[unit.line, earlier] for earlier in range(number)):
            return "later"
        key = unit.line, number
        if key not in self._standing:
            self._standing[key] = self._pool.submit(self.chances, *key)
        if not self._standing[key].done():
            return "later"
        if self._standing[key].result().get(unit.model, 1.0) >= self.risk:
            return "begin"
        self.ended(unit)
        return "race"

    def ended(self, unit: Unit) -> None:
        """Note that nothing waits for the unit any more."""
        self._open[unit.line, self._round[unit.unit_id]].discard(unit.unit_id)

    def chances(self, line: str, number: int) -> Mapping[str, float]:
        """Return by model the probability that no other is better by more than the margin, by so many first seeds."""
        units = tuple(unit for unit in self.plan.units if unit.line == line and self._round[unit.unit_id] < number)
        plan = replace(self.plan, units=units, manifests={line: self.plan.manifests[line]})
        (verdict,) = analyze(plan, self.run, "").board.verdicts
        return {model: standing.within_margin for model, standing in verdict.standings.items()}


class Admission:
    """What lets units begin: all but those that failed too often, and what a budget or a race leaves out."""

    def __init__(self, budget: Budget | None = None, race: Race | None = None, exhausted: Collection[str] = ()) -> None:
        self.budget, self.race, self.exhausted = budget, race, exhausted

    def answer(self, unit: Unit) -> Answer:
        """Return whether the unit begins now or is asked about later, or else what it is left out for."""
        if unit.unit_id in self.exhausted:
            if self.race:
                self.race.ended(unit)
            return "attempts"
        answer: Answer = self.race.answer(unit) if self.race else "begin"
        return self.budget.answer(unit) if self.budget and answer == "begin" else answer

    def charge(self, unit: Unit, cpu_s: float, gpu_s: float) -> None:
        """Count what a task of the unit has used, in seconds of CPU cores and GPUs."""
        if self.budget:
            self.budget.charge(unit, (gpu_s or cpu_s) / HOUR_S)

    def ended(self, unit: Unit) -> None:
        """Note that the unit is done or has failed."""
        for gate in (self.budget, self.race):
            if gate:
                gate.ended(unit)


def admission(
    plan: Plan,
    run: RunStore,
    schedule: Schedule,
    capacity: Capacity,
    share_of: Callable[[Unit, Phase], float],
    exhausted: Collection[str] = (),
) -> Admission:
    """Return what lets the units of a plan begin.

    Args:
        plan: The plan.
        run: Its run.
        schedule: Its units with their estimated costs.
        capacity: Capacity of the cluster.
        share_of: Share of a GPU that a task has, by unit and phase.
        exhausted: IDs of the units that have failed too often.

    Raises:
        InputError: `limits.gpu_hours` limits nothing on a cluster without GPUs.
    """
    limits, price = plan.experiment.limits, plan.experiment.resources.price_per_hour
    if limits.gpu_hours is not None and not capacity.gpus:
        raise InputError(
            "limits.gpu_hours limits nothing, because no GPU is used; give limits.budget and resources.price_per_hour"
        )
    hours = [limits.gpu_hours] if limits.gpu_hours is not None else []
    if limits.budget is not None and price:
        hours.append(limits.budget / price)

    def estimated_h(unit: Unit, with_fit: bool) -> float | None:
        phases = schedule.costs[unit.unit_id].seconds.keys()
        if not phases:
            return None
        seconds = {phase: seconds_left(schedule, unit, phase) for phase in phases if with_fit or phase != "fit"}
        if capacity.gpus:
            return sum(value * share_of(unit, phase) for phase, value in seconds.items()) / HOUR_S
        cores = {phase: capacity.timing_cpus if phase == "measure" else capacity.cpus for phase in seconds}
        return sum(value * cores[phase] for phase, value in seconds.items()) / HOUR_S

    done = {unit_id for unit_id, names in schedule.commits.items() if "finished" in names}
    race = plan.experiment.race
    return Admission(
        Budget(min(hours), estimated_h) if hours else None,
        Race(plan, run, race, done) if race else None,
        exhausted,
    )
