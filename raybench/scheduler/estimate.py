"""Estimate a plan's time and cost, and order its units, from recorded costs. Does not use Ray.

A run is estimated by simulating it: its own backlog is fed with estimated seconds in place of tasks. Units are begun
the longest first, and no line behind the others. Longest first is the rule of R. L. Graham, "Bounds on multiprocessing
timing anomalies" (SIAM J. Appl. Math. 17, 1969): the last slot ends at most 4/3 - 1/(3m) times as late as in the best
schedule on m slots. Between lines the rule is start-time fair queueing (P. Goyal, H. Vin, H. Cheng, 1996), a line being
a flow whose weight is its work.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from raybench.config.plan import Plan, train_images
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.runs.cost_model import CostEstimate, CostModel, Forecast, Work
from raybench.runs.costs import Costs, read_costs
from raybench.runs.ledger import Ledger
from raybench.runs.records import Phase
from raybench.runs.run import RunStore, scored_name
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Capacity, Cluster, Node
from raybench.scheduler.gpu_share import GpuShares


@dataclass(frozen=True)
class Schedule:
    """The units of a plan in their order, with their estimated costs."""

    units: Sequence[Unit]
    """In the order in which to start them."""
    manifests: Mapping[str, Manifest]
    """By line."""
    commits: Mapping[str, set[str]]
    """Names of the commits that exist, by unit_id."""
    costs: Mapping[str, CostEstimate]
    """By unit_id."""
    damaged: tuple[str, ...] = ()
    """Keys of recorded costs that could not be read."""


def plan_schedule(plan: Plan, commits: Mapping[str, set[str]], costs: Costs, capacity: Capacity) -> Schedule:
    """Estimate the costs of the plan's units and order them.

    Args:
        plan: with all its units, done or not.
        commits: names of the commits that exist, by unit_id.
        costs: what earlier units took. Without any, the order is the experiment's.
        capacity: of the cluster.
    """
    model = CostModel(costs, capacity.device)
    estimates = {
        unit.unit_id: model.estimate(unit, plan.manifests[unit.line], train_images(unit, plan.manifests))
        for unit in plan.units
    }
    units = in_order(plan.units, lambda unit: estimates[unit.unit_id].work_s)
    limits = plan.experiment.limits
    if plan.experiment.race or limits.has_budget:  # every model once, before any has further seeds
        rounds = round_of(plan.units)
        cost_s = {unit.unit_id: estimates[unit.unit_id].work_s if limits.has_budget else 0.0 for unit in units}
        units.sort(key=lambda unit: (rounds[unit.unit_id], cost_s[unit.unit_id]))
    return Schedule(units, plan.manifests, commits, estimates, costs.damaged)


def estimate_schedule(schedule: Schedule, capacity: Capacity, shares: GpuShares) -> Forecast:
    """Estimate what the rest of `schedule` will take; without a prediction where costs of a unit are unknown."""
    todo = [unit for unit in schedule.units if "finished" not in schedule.commits.get(unit.unit_id, ())]
    bases = Counter[str](schedule.costs[unit.unit_id].basis for unit in todo)
    nodes = len(capacity.nodes)
    unscored = [_unscored(schedule, unit) for unit in todo]
    forecast = Forecast(
        units=len(todo),
        device=capacity.device,
        slots=capacity.count,
        nodes=nodes,
        bases=dict(bases),
        damaged=schedule.damaged,
        trains=len(
            {unit.fit_id for unit in todo if not {"train", "fit"} & set(schedule.commits.get(unit.unit_id, ()))}
        ),
        scores=sum(unscored),
        judges=unscored.count(0),
    )
    if not todo or bases["nothing"]:
        return forecast

    def request_of(job: Job) -> ResourceRequest:
        if job.phase == "aggregate":
            return ResourceRequest(0.0, 0)
        seconds = seconds_left(schedule, job.unit, job.phase, job.shards)
        if job.phase == "measure":
            return ResourceRequest(seconds, capacity.timing_cpus, 1.0 if capacity.gpus else 0.0)
        return ResourceRequest(seconds, capacity.cpus, shares.of(job.unit, job.phase) if capacity.gpus else 0.0)

    backlog = Backlog(schedule.units, schedule.manifests, schedule.commits)
    return replace(forecast, predicted=simulate(backlog, FreeCapacity.of(capacity), request_of))


def seconds_left(schedule: Schedule, unit: Unit, phase: Phase, shards: Sequence[ShardInfo] | None = None) -> float:
    """Return the seconds that a phase of a unit still takes.

    Scoring takes its time shard by shard, in proportion to their images. What is only judged takes none.

    Args:
        schedule: The schedule.
        unit: A unit of it.
        phase: The phase.
        shards: Shards to score. None: all of the line's.
    """
    seconds, names = schedule.costs[unit.unit_id].seconds.get(phase, 0.0), schedule.commits.get(unit.unit_id, ())
    if phase == "measure":
        return seconds * (unit.measure_name not in names)
    if phase == "score":
        manifest = schedule.manifests[unit.line]
        unscored = [shard for shard in manifest.scored_shards if scored_name(shard) not in names]
        rows = sum(shard.rows for shard in unscored if shards is None or shard in shards)
        return seconds * rows / max(1, manifest.scored_images)
    return seconds * ("train" not in names and (phase != "fit" or "fit" not in names))


def step_seconds(schedule: Schedule, forecast: Forecast, backlog: Backlog) -> dict[Phase, float]:
    """Return the estimated seconds of a step of each phase, on average over what is left; empty if nothing tells."""
    if forecast.predicted is None:
        return {}
    todo = [unit for unit in schedule.units if "finished" not in schedule.commits.get(unit.unit_id, ())]
    phases: tuple[Phase, ...] = ("train", "score", "measure")
    steps = {phase: backlog.tallies[phase].total - backlog.tallies[phase].done for phase in phases}
    return {
        phase: sum(seconds_left(schedule, unit, phase) for unit in todo) / steps[phase]
        for phase in phases
        if steps[phase]
    }


def round_of(units: Sequence[Unit]) -> dict[str, int]:
    """Return by unit_id the place of a unit's seed among those of its line, from 0."""
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for unit in units:
        seeds[unit.line].add(unit.seed)
    places = {line: {seed: place for place, seed in enumerate(sorted(of_line))} for line, of_line in seeds.items()}
    return {unit.unit_id: places[unit.line][unit.seed] for unit in units}


def _unscored(schedule: Schedule, unit: Unit) -> int:
    """Return the number of images that the unit's detector has not scored."""
    names = schedule.commits.get(unit.unit_id, ())
    shards = schedule.manifests[unit.line].scored_shards
    return sum(shard.rows for shard in shards if scored_name(shard) not in names)


def estimate_plan(plan: Plan, nodes: Sequence[Node]) -> Forecast:
    """Estimate what the rest of `plan` will take on a cluster of `nodes`. Reads the store and writes nothing there.

    Raises InputError when not even one task fits the nodes, and StoreError.
    """
    resources, run = plan.experiment.resources, RunStore.of(plan)
    cluster, ledger = Cluster(resources, lambda: nodes), Ledger.read(run)
    commits = ledger.commits(plan.units)
    costs = read_costs(run, ledger, plan.units)
    shares = GpuShares(cluster.fixed_share, resources.gpu_memory_mb, costs)
    return estimate_schedule(plan_schedule(plan, commits, costs, cluster.capacity), cluster.capacity, shares)


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


@dataclass(frozen=True)
class FreeCapacity:
    """What tasks share in the simulation."""

    tasks: int
    """Train and score tasks that the CPUs allow at once."""
    gpus: float
    """GPUs that tasks share."""
    timings: int
    """Timing tasks at once."""

    @classmethod
    def of(cls, capacity: Capacity) -> FreeCapacity:
        return cls(capacity.cpu_slots, float(capacity.all_gpus), capacity.timing_slots)


@dataclass(frozen=True)
class ResourceRequest:
    """What one task takes."""

    seconds: float
    """Wall time."""
    cpus: int = 1
    """CPU cores."""
    gpus: float = 0.0
    """Share of a GPU, or whole GPUs."""


def simulate(backlog: Backlog, free: FreeCapacity, request_of: Callable[[Job], ResourceRequest]) -> Work:
    """Return the time that the jobs of `backlog` take, and use it up. Merging shards takes no time and no slot."""
    now = used = cpu_s = gpu_s = 0.0
    working, numbers = 0, itertools.count()
    running: list[tuple[float, int, Job, ResourceRequest]] = []
    held: Job | None = None
    while True:
        while job := held or backlog.take(busy=working > 0):
            request, held = request_of(job), job
            if job.phase == "measure":
                full = len(running) >= free.timings
            else:
                full = working >= free.tasks or used + request.gpus > free.gpus + 1e-9
            if running and full and job.phase != "aggregate":
                break
            held, used = None, used + request.gpus
            cpu_s, gpu_s = cpu_s + request.seconds * request.cpus, gpu_s + request.seconds * request.gpus
            working += job.phase != "measure"
            heapq.heappush(running, (now + request.seconds, next(numbers), job, request))
        if not running:
            return Work(now, cpu_s, gpu_s)
        now, _, job, request = heapq.heappop(running)
        used -= request.gpus
        working -= job.phase != "measure"
        backlog.finish(job)
