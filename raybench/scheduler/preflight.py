"""Check the GPUs of all nodes, and backbones of the user's own, before anything is trained.

A driver that is missing or too old, or a GPU that fell off the bus, fails every unit that it is given in milliseconds,
so that such a node would take unit after unit and fail the run. Nodes that join later are found out by the check that
each process makes before its first task, see `gpus.prepare`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.detectors import registry, weights
from raybench.detectors.protocol import FitContext
from raybench.errors import ExperimentError, InputError, ModelError
from raybench.scheduler import gpus
from raybench.scheduler.capacity import Cluster
from raybench.store import Store

LIMIT_S = 120.0  # importing torch from a slow disk takes a minute


@ray.remote(max_calls=1, num_cpus=0, max_retries=0)  # the process ends, as it holds a context on each GPU of the node
def check_node() -> str:
    """Check all GPUs of a node. Takes no resources, so that it need not wait for the node's other tasks.

    Returns:
        What is wrong; empty when all is well.
    """
    gpus.show_all()
    from raybench.detectors import device

    faults = device.faults()
    return "; ".join(f"{gpus.where()}, GPU {number}: {fault}" for number, fault in faults.items())


def leave_out_unusable(cluster: Cluster) -> None:
    """Check the nodes that would train, and leave out those with a GPU that fails.

    A node that does not answer within LIMIT_S is kept: it may be slow.

    Raises:
        GpuUnusable: No node is left.
    """
    asked = {
        check_node.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(): node
        for node in cluster.capacity.nodes
    }
    answered, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=LIMIT_S)
    for reference in waiting:
        ray.cancel(reference, force=True)
    for reference in answered:
        try:
            fault: str = ray.get(reference)
        except ray.exceptions.RayError as error:  # the driver of a GPU may take the whole process along
            fault = f"node {asked[reference].node_id}: the check of its GPUs failed: {error}"
        if fault:
            cluster.leave_out(asked[reference].node_id, fault)
    cluster.raise_if_all_left_out()


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def check_backbone(unit: Unit, weights_store: Store | None) -> str:
    """Build a unit's backbone on a CPU and load its file. Takes no resources, as `check_node`.

    Returns:
        What is wrong; empty when all is well.
    """
    from raybench.worker.context import node_cache

    try:
        files = weights.fetch(unit.weights, weights_store, node_cache())
        registry.check_backbone(unit.detector, unit.config, FitContext(weights=files))
    except (InputError, ModelError) as error:
        return str(error)
    return ""


def check_backbones(units: Iterable[Unit], plan: Plan) -> None:
    """Check the networks that users bring themselves: what timm says of them is known where torch is.

    What does not answer within LIMIT_S, or fails for another reason, is left to training, which says so.

    Raises:
        ExperimentError: Some cannot be used.
    """
    own = {unit.model: unit for unit in units if registry.own_backbone(unit.detector, unit.config)}
    asked = {check_backbone.remote(unit, plan.weights): model for model, unit in own.items()}
    answered, waiting = ray.wait(list(asked), num_returns=len(asked), timeout=LIMIT_S) if asked else ([], [])
    for reference in waiting:
        ray.cancel(reference, force=True)
    problems = []
    for reference in answered:
        with contextlib.suppress(ray.exceptions.RayError):
            if fault := ray.get(reference):
                problems.append(f"models: {asked[reference]}: {fault}")
    if problems:
        raise ExperimentError(f"experiment {plan.experiment.name!r}", sorted(problems))
