"""Estimate a plan's time and cost, and order its units, from recorded costs. Does not use Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.runs.cost_model import CostEstimate, CostModel, Forecast
from raybench.runs.costs import Costs, read_costs
from raybench.runs.ledger import Ledger
from raybench.runs.run import RunStore, scored_name
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Capacity, Cluster, Node
from raybench.scheduler.gpu_share import GpuShares
from raybench.scheduler.order import in_order
from raybench.scheduler.simulate import FreeCapacity, ResourceRequest, simulate


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
    estimates = {unit.unit_id: model.estimate(unit, plan.manifests[unit.line]) for unit in plan.units}
    units = in_order(plan.units, lambda unit: estimates[unit.unit_id].work_s)
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
        trains=sum("train" not in schedule.commits.get(unit.unit_id, ()) for unit in todo),
        scores=sum(unscored),
        judges=unscored.count(0),
    )
    if not todo or bases["nothing"]:
        return forecast
    images = {line: manifest.scored_images for line, manifest in schedule.manifests.items()}

    def request_of(job: Job) -> ResourceRequest:
        """Scoring takes its time shard by shard, in proportion to their images. What is only judged takes none."""
        seconds = schedule.costs[job.unit.unit_id].seconds.get(job.phase, 0.0)
        names = schedule.commits.get(job.unit.unit_id, ())
        if job.phase == "aggregate":
            return ResourceRequest(0.0, 0)
        if job.phase == "measure":
            seconds *= "measure" not in names
            return ResourceRequest(seconds, capacity.most_cpus, 1.0 if capacity.gpus else 0.0)
        if job.phase == "score":
            unscored = sum(shard.rows for shard in job.shards if scored_name(shard) not in names)
            seconds *= unscored / images[job.unit.line]
        return ResourceRequest(seconds, capacity.cpus, shares.of(job.unit, job.phase) if capacity.gpus else 0.0)

    backlog = Backlog(schedule.units, schedule.manifests, schedule.commits)
    return replace(forecast, predicted=simulate(backlog, FreeCapacity.of(capacity), request_of))


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
