"""Decode shards on nodes without a GPU, a little ahead of the units that need them.

Decoded shards go into the run's store, where nodes with a GPU look before they decode. No result depends on it. A shard
that cannot be decoded here is left to the unit's own task, whose failure says why.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.config.unit import Unit
from raybench.data.cache import open_cached, put_prefetched, remove_prefetched
from raybench.data.geometry import InputFit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.runs.run import RunStore, scored_name
from raybench.scheduler.capacity import Cluster, Node
from raybench.scheduler.tasks import REUSE_WORKER, LineContext, unpack_args
from raybench.scheduler.window import Window
from raybench.worker import memory
from raybench.worker.context import fit_of, node_cache

LIMIT_MB = 8192  # of decoded shards in the store
PAUSE_S = 30.0  # after a task that failed: a failing store, a lost node


@dataclass(frozen=True)
class PrefetchedShard:
    """A decoded shard in the run's store."""

    name: str
    """Its name there."""
    size: int
    """Bytes."""


@ray.remote(max_calls=REUSE_WORKER)
def decode(
    context_args: bytes, shard: ShardInfo, fit: InputFit, threads: int, unwanted: Sequence[str]
) -> PrefetchedShard:
    """Decode a shard and put it into the run's store.

    Args:
        context_args: LineContext, packed.
        shard: of the line.
        fit: how to resize the images.
        threads: CPU cores of the task.
        unwanted: names of decoded shards to remove from the store first.
    """
    memory.tune_malloc()
    context: LineContext = unpack_args(context_args)
    for name in unwanted:
        remove_prefetched(context.run.ahead, name)
    cached = open_cached(context.lines, context.manifest, shard, fit, node_cache(), threads)
    return PrefetchedShard(cached.path.stem, put_prefetched(cached, context.run.ahead))


def clear(run: RunStore) -> None:
    """Remove all decoded shards from the run's store, those of a killed run too."""
    for item in list(run.ahead.list()):
        run.ahead.delete(item.key)


@dataclass(frozen=True)
class Wanted:
    """A shard to decode for a network's input size."""

    unit: int
    """How many units begin before the first that needs it."""
    line: str
    """The line's name."""
    shard: ShardInfo
    """The shard of the line."""
    fit: InputFit
    """How to resize its images."""


def wanted(
    units: Iterable[Unit], manifests: Mapping[str, Manifest], commits: Mapping[str, Set[str]] = MappingProxyType({})
) -> Iterator[Wanted]:
    """Yield the shards that units need, each once for every input size; of a unit, training shards first.

    Args:
        units: in the order in which they begin.
        manifests: by line.
        commits: names of the commits that exist, by unit_id. Units whose images are all scored need none.
    """
    first: dict[tuple[str, InputFit], int] = {}
    for index, unit in enumerate(units):
        names = commits.get(unit.unit_id, set())
        if "train" not in names or any(scored_name(shard) not in names for shard in manifests[unit.line].scored_shards):
            first.setdefault((unit.line, fit_of(unit)), index)
    for (line, fit), index in first.items():
        manifest = manifests[line]
        for shard in (*manifest.shards_of("train"), *manifest.scored_shards):
            yield Wanted(index, line, shard, fit)


class Prefetcher:
    """The shards that are left to decode. Does nothing on a cluster without nodes that decode for others."""

    def __init__(self, wanted: Iterable[Wanted], cluster: Cluster, contexts: Mapping[str, Any]) -> None:
        """wanted: in the order in which units need them. contexts: a packed LineContext for each line."""
        self._cluster, self._contexts = cluster, contexts
        self._waiting = deque(wanted if cluster.capacity.cpu_nodes else ())
        self.running = Window[str]()
        """The nodes' IDs, one for each shard in flight."""
        self._prefetched: deque[PrefetchedShard] = deque()
        self._paused_until = 0.0

    def fill(self, begun: int) -> None:
        """Submit shards that the next units need; `begun`: how many units have begun."""
        if not self._waiting or time.monotonic() < self._paused_until:
            return
        horizon = begun + 2 * max(self._cluster.capacity.count, 1)
        while self._waiting and self._waiting[0].unit < horizon and (node := self._free_node()):
            self._submit(self._waiting.popleft(), node)

    def receive(self, ended: Iterable[Any]) -> None:
        """Take the decoded shards among the tasks that have ended."""
        for _, reference in self.running.take(ended):
            try:
                self._prefetched.append(ray.get(reference))
            except ray.exceptions.RayError:
                self._paused_until = time.monotonic() + PAUSE_S

    def _submit(self, shard: Wanted, node: Node) -> None:
        threads = self._threads(node)
        task = decode.options(
            num_cpus=threads,
            max_retries=0,
            name="decode",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        arguments = (self._contexts[shard.line], shard.shard, shard.fit, threads, self._unwanted())
        self.running.submit(node.node_id, task.remote(*arguments))

    def _free_node(self) -> Node | None:
        busy = Counter(self.running)
        free = (
            node for node in self._cluster.capacity.cpu_nodes if busy[node.node_id] < node.cpus // self._threads(node)
        )
        return next(free, None)

    def _threads(self, node: Node) -> int:
        return min(self._cluster.capacity.cpus, node.cpus)

    def _unwanted(self) -> tuple[str, ...]:
        """Names of the oldest decoded shards above LIMIT_MB, which are forgotten here."""
        names = []
        total = sum(shard.size for shard in self._prefetched)
        while self._prefetched and total > LIMIT_MB * 2**20:
            oldest = self._prefetched.popleft()
            total -= oldest.size
            names.append(oldest.name)
        return tuple(names)
