"""The cluster as a run sees it: which nodes it uses, how many tasks fit, and how that changes. Knows no Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raybench.config.experiment import Resources
from raybench.errors import InputError

REFRESH_S = 5.0


@dataclass(frozen=True)
class Node:
    node_id: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Capacity:
    """count: train and score tasks at once, where each has `gpus` of a GPU. cpus: of each task. device: torch name.
    nodes: those that train, score and measure. cpu_nodes: nodes without a GPU, of a cluster whose GPUs are used."""

    count: int
    cpus: int
    gpus: float
    device: str
    nodes: tuple[Node, ...]
    cpu_nodes: tuple[Node, ...] = ()

    @property
    def cpu_slots(self) -> int:
        """Tasks at once, if only CPUs counted."""
        return sum(node.cpus // self.cpus for node in self.nodes)

    @property
    def most_cpus(self) -> int:
        """CPUs of the largest node."""
        return max((node.cpus for node in self.nodes), default=self.cpus)

    def cpu_node(self, number: int) -> Node | None:
        """A node without a GPU for merging or the report: in turns, the largest first. None where there are none."""
        nodes = sorted(self.cpu_nodes, key=lambda node: -node.cpus)
        return nodes[number % len(nodes)] if nodes else None

    @property
    def all_gpus(self) -> int:
        return sum(node.gpus for node in self.nodes) if self.gpus else 0


def capacity_of(resources: Resources, nodes: Sequence[Node]) -> Capacity:
    """How an experiment's tasks fit the nodes. Raises InputError when not even one does."""
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
    """So many equal nodes. By default each has this machine's CPUs, or as many as a task asks for, and a GPU where the
    experiment asks for one."""
    cpus = cpus or max(os.cpu_count() or 1, resources.cpus)
    gpus = (1 if resources.gpus else 0) if gpus is None else gpus
    return tuple(Node(f"assumed {number}", cpus, gpus) for number in range(nodes))


class Cluster:
    """The slots of a cluster whose nodes come and go. What a task runs on, CPU or GPU, is settled at the start.

    fixed_share: of a GPU that each task has; None: by memory. alive: the nodes there are now. Raises InputError when
    nothing fits at the start; later that may pass.
    """

    def __init__(
        self, resources: Resources, alive: Callable[[], Sequence[Node]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._alive, self._clock = alive, clock
        self._slots = capacity_of(resources, alive())
        self._resources = resources.model_copy(update={"gpus": self._slots.gpus})
        self._looked_at = clock()
        by_memory = resources.gpus is None and self._slots.device != "cpu"
        self.fixed_share = None if by_memory else self._slots.gpus

    @property
    def capacity(self) -> Capacity:
        """As of some seconds ago; without nodes while the cluster has lost all that fit."""
        if self._clock() - self._looked_at >= REFRESH_S:
            self.look_again()
        return self._slots

    def look_again(self) -> None:
        """See at once who is there: a node was lost."""
        self._looked_at = self._clock()
        try:
            self._slots = capacity_of(self._resources, self._alive())
        except InputError:
            before = self._slots
            self._slots = Capacity(0, before.cpus, before.gpus, before.device, ())

    def has_room(self, tasks: int, gpus: float) -> bool:
        """Whether more may be submitted beside so many tasks, which have so many GPUs together.

        Some are submitted ahead, so that no slot waits for the driver. To a cluster without nodes one task at a time
        is submitted: an autoscaler adds nodes only for what asks for them.
        """
        slots, ahead = self.capacity, self._resources.in_flight
        if tasks >= ahead * max(slots.cpu_slots, 1):
            return False
        return not slots.gpus or gpus < ahead * max(slots.all_gpus, 1)
