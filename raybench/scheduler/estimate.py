"""What a plan will take, and the order in which to start its units: from recorded costs. Knows no Ray."""

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
from raybench.runs.run import Run
from raybench.scheduler.backlog import Backlog, Job
from raybench.scheduler.capacity import Capacity, Cluster, Node
from raybench.scheduler.gpu_share import GpuShares
from raybench.scheduler.order import in_order
from raybench.scheduler.simulate import FreeCapacity, ResourceRequest, simulate


@dataclass(frozen=True)
class Schedule:
    """What is to be done. units: in the order in which they are started. commits: unit_id → names of its commits.
    guesses: by unit_id. damaged: keys of recorded costs that could not be read."""

    units: Sequence[Unit]
    manifests: Mapping[str, Manifest]
    commits: Mapping[str, set[str]]
    guesses: Mapping[str, CostEstimate]
    damaged: tuple[str, ...] = ()


def plan_schedule(plan: Plan, commits: Mapping[str, set[str]], costs: Costs, slots: Capacity) -> Schedule:
    """The units of `plan` with what they are predicted to cost, in the order in which to start them: as the experiment
    lists them, where nothing has been recorded."""
    predictor = CostModel(costs, slots.device)
    guesses = {unit.unit_id: predictor.estimate(unit, plan.manifests[unit.line]) for unit in plan.units}
    units = in_order(plan.units, lambda unit: guesses[unit.unit_id].work_s)
    return Schedule(units, plan.manifests, commits, guesses, costs.damaged)


def estimate_schedule(ahead: Schedule, slots: Capacity, shares: GpuShares) -> Forecast:
    """What `ahead` will take on `slots`: without a prediction where nothing has been recorded."""
    todo = [unit for unit in ahead.units if "result" not in ahead.commits.get(unit.unit_id, ())]
    bases = Counter[str](ahead.guesses[unit.unit_id].basis for unit in todo)
    plain = Forecast(len(todo), slots.device, slots.count, len(slots.nodes), dict(bases), damaged=ahead.damaged)
    if not todo or bases["nothing"]:
        return plain
    images = {line: sum(shard.rows for shard in lines.scored_shards) for line, lines in ahead.manifests.items()}

    def demand_of(job: Job) -> ResourceRequest:
        """Scoring takes its time shard by shard, in proportion to their images."""
        seconds = ahead.guesses[job.unit.unit_id].seconds.get(job.phase, 0.0)
        if job.phase == "aggregate":
            return ResourceRequest(0.0, 0)
        if job.phase == "measure":
            return ResourceRequest(seconds, slots.most_cpus, 1.0 if slots.gpus else 0.0)
        if job.phase == "score":
            seconds *= job.images / images[job.unit.line]
        return ResourceRequest(seconds, slots.cpus, shares.of(job.unit, job.phase) if slots.gpus else 0.0)

    backlog = Backlog(ahead.units, ahead.manifests, ahead.commits)
    return replace(plain, predicted=simulate(backlog, FreeCapacity.of(slots), demand_of))


def estimate_plan(plan: Plan, nodes: Sequence[Node]) -> Forecast:
    """What is left of `plan` will take on a cluster of `nodes`. Reads the store and writes nothing there.

    Raises InputError when not even one task fits the nodes, besides the store's own errors.
    """
    resources, run = plan.experiment.resources, Run(plan.store, plan.experiment.name)
    cluster, ledger = Cluster(resources, lambda: nodes), Ledger.read(run)
    commits = ledger.commits([unit.unit_id for unit in plan.units])
    costs = read_costs(run, ledger, plan.units)
    shares = GpuShares(cluster.fixed_share, resources.gpu_memory_mb, costs)
    return estimate_schedule(plan_schedule(plan, commits, costs, cluster.capacity), cluster.capacity, shares)
