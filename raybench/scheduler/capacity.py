"""The nodes that a run uses and the tasks that fit them, as nodes come and go. Does not use Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raybench.config.experiment import Resources
from raybench.errors import GpuUnusable, InputError

REFRESH_S = 5.0


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    node_id: str
    """Ray's ID."""
    cpus: int
    """CPU cores that Ray may use."""
    gpus: int
    """GPUs that Ray may use."""


@dataclass(frozen=True)
class Capacity:
    """How the tasks of an experiment fit a cluster."""

    count: int
    """Train and score tasks at once, where each has `gpus` of a GPU."""
    cpus: int
    """CPU cores of each task."""
    gpus: float
    """Share of a GPU of each task; 0 on CPUs."""
    device: str
    """torch's name of the device: "cpu" or "cuda"."""
    nodes: tuple[Node, ...]
    """Nodes that train, score and measure."""
    cpu_nodes: tuple[Node, ...] = ()
    """Nodes without a GPU, where GPUs are used. They decode, merge and build the report."""

    @property
    def cpu_slots(self) -> int:
        """Tasks that the CPUs allow at once."""
        return sum(node.cpus // self.cpus for node in self.nodes)

    def timings(self, node: Node) -> int:
        """Return how many detectors a node times at once: one on each GPU, with its share of the cores; on CPUs one."""
        return max(1, min(node.gpus, node.cpus)) if self.gpus else 1

    @property
    def timing_slots(self) -> int:
        """Detectors that are timed at once."""
        return sum(map(self.timings, self.nodes))

    @property
    def timing_cpus(self) -> int:
        """CPU cores with which a detector is timed, at most."""
        return max((node.cpus // self.timings(node) for node in self.nodes), default=self.cpus)

    def cpu_node(self, number: int) -> Node | None:
        """A node without a GPU for merging or the report: in turns, the largest first. None where there are none."""
        nodes = sorted(self.cpu_nodes, key=lambda node: -node.cpus)
        return nodes[number % len(nodes)] if nodes else None

    @property
    def all_gpus(self) -> int:
        """GPUs in all; 0 where none is used."""
        return sum(node.gpus for node in self.nodes) if self.gpus else 0


def capacity_of(resources: Resources, nodes: Sequence[Node]) -> Capacity:
    """Count the tasks that fit the nodes. Raises InputError when not even one does."""
    usable = tuple(node for node in nodes if node.cpus >= resources.cpus)
    if not usable:
        most = max((node.cpus for node in nodes), default=0)
        raise InputError(f"resources.cpus is {resources.cpus}, but no node of the cluster has more than {most} CPUs")
    gpus = resources.gpus if resources.gpus is not None else min(1.0, sum(node.gpus for node in nodes))
    if gpus == 0:
        count = sum(node.cpus // resources.cpus for node in usable)
        return Capacity(count, resources.cpus, 0.0, "cpu", usable)
    count = sum(min(node.cpus // resources.cpus, int(node.gpus / gpus)) for node in usable)
    if count == 0:
        raise InputError(f"resources.gpus is {gpus}, but no node of the cluster has a GPU; set it to 0 for the CPU")
    cpu_nodes = tuple(node for node in nodes if node.cpus and not node.gpus)
    return Capacity(count, resources.cpus, gpus, "cuda", tuple(node for node in usable if node.gpus), cpu_nodes)


def assumed_nodes(resources: Resources, nodes: int, cpus: int | None, gpus: int | None) -> tuple[Node, ...]:
    """Make up a cluster of equal nodes.

    Args:
        resources: of the experiment.
        nodes: how many.
        cpus: cores of each; by default this machine's, or as many as a task asks for.
        gpus: of each; by default one where the experiment asks for a share of one.
    """
    cpus = cpus or max(os.cpu_count() or 1, resources.cpus)
    gpus = (1 if resources.gpus else 0) if gpus is None else gpus
    return tuple(Node(f"assumed {number}", cpus, gpus) for number in range(nodes))


class Cluster:
    """The capacity of a cluster whose nodes come and go. Whether tasks run on CPUs or GPUs is settled at the start."""

    def __init__(
        self, resources: Resources, alive: Callable[[], Sequence[Node]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at the nodes for the first time.

        Args:
            resources: of the experiment.
            alive: returns the nodes that there are now.
            clock: seconds.

        Raises:
            InputError: no task fits. Later that is taken for a passing state.
        """
        self._alive, self._clock = alive, clock
        self._capacity = capacity_of(resources, alive())
        self._resources = resources.model_copy(update={"gpus": self._capacity.gpus})
        self._looked_at = clock()
        by_memory = resources.gpus is None and self._capacity.device != "cpu"
        self.fixed_share = None if by_memory else self._capacity.gpus
        """Share of a GPU that each task has; None where it depends on the memory that similar tasks used."""
        self.left_out: dict[str, str] = {}
        """Nodes that get no more tasks, by ID, and why."""

    @property
    def capacity(self) -> Capacity:
        """The capacity of at most REFRESH_S ago; without nodes while the cluster has lost all that fit."""
        if self._clock() - self._looked_at >= REFRESH_S:
            self.look_again()
        return self._capacity

    @property
    def node_ids(self) -> frozenset[str]:
        """IDs of the nodes that get tasks."""
        capacity = self.capacity
        return frozenset(node.node_id for node in (*capacity.nodes, *capacity.cpu_nodes))

    def look_again(self) -> None:
        """Refresh the capacity at once, because a node may be lost."""
        self._looked_at = self._clock()
        try:
            nodes = [node for node in self._alive() if node.node_id not in self.left_out]
            self._capacity = capacity_of(self._resources, nodes)
        except InputError:
            before = self._capacity
            self._capacity = Capacity(0, before.cpus, before.gpus, before.device, ())

    def leave_out(self, node_id: str, why: str) -> None:
        """Give a node no tasks any more."""
        self.left_out[node_id] = why
        self.look_again()

    def raise_if_all_left_out(self) -> None:
        """Raise GpuUnusable when nodes have been left out and no other is there."""
        if self.left_out and not self._capacity.nodes:
            raise GpuUnusable("no node has a GPU that works: " + "; ".join(self.left_out.values()))

    def has_room(self, tasks: int, gpus: float) -> bool:
        """Return whether to submit a task beside `tasks` others, which ask for `gpus` GPUs together.

        Tasks are submitted ahead, so that no slot waits for the driver. A cluster without nodes is asked for one task
        at a time, because an autoscaler adds nodes only for tasks that ask for them.
        """
        capacity, ahead = self.capacity, self._resources.in_flight
        if tasks >= ahead * max(capacity.cpu_slots, 1):
            return False
        return not capacity.gpus or gpus < ahead * max(capacity.all_gpus, 1)
