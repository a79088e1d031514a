"""Shards decoded on nodes without a GPU, a little ahead of the units that need them.

They go into the run's store, where nodes with a GPU look before they decode; changes no number. A shard that could not
be decoded here is left to the unit's own task, whose failure says why.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybench.config.unit import Unit
from raybench.data.cache import open_cached, put_prefetched, remove_prefetched
from raybench.data.geometry import InputFit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.runs.run import Run
from raybench.scheduler.capacity import Cluster, Node
from raybench.scheduler.tasks import REUSE_WORKER, LineContext, unpack_args
from raybench.worker.context import fit_of, node_cache

LIMIT_MB = 8192  # of decoded shards in the store
PAUSE_S = 30.0  # after a task that failed: a store in trouble, a node that was lost


@dataclass(frozen=True)
class Carried:
    """A shard that was put there. size: bytes."""

    name: str
    size: int


@ray.remote(max_calls=REUSE_WORKER)
def decode(at: bytes, shard: ShardInfo, fit: InputFit, threads: int, unwanted: Sequence[str]) -> Carried:
    """Decode a shard and put it where others look; remove what is `unwanted` there. at: LineContext as an argument."""
    desk: LineContext = unpack_args(at)
    for name in unwanted:
        remove_prefetched(desk.run.ahead, name)
    fitted = open_cached(desk.lines, desk.manifest, shard, fit, node_cache(), threads)
    return Carried(fitted.path.stem, put_prefetched(fitted, desk.run.ahead))


def clear(run: Run) -> None:
    """Remove all that was decoded ahead; also what a run that was killed has left."""
    for item in list(run.ahead.list()):
        run.ahead.delete(item.key)


@dataclass(frozen=True)
class Wanted:
    """A shard at a network's size. unit: how many units begin before the first that needs it."""

    unit: int
    line: str
    shard: ShardInfo
    fit: InputFit


def wanted(units: Iterable[Unit], manifests: Mapping[str, Manifest]) -> Iterator[Wanted]:
    """What `units`, in the order in which they begin, need: training shards first, a shard once for every size."""
    first: dict[tuple[str, InputFit], int] = {}
    for at, unit in enumerate(units):
        first.setdefault((unit.line, fit_of(unit)), at)
    for (line, fit), at in first.items():
        manifest = manifests[line]
        for shard in (*manifest.shards_of("train"), *manifest.scored_shards):
            yield Wanted(at, line, shard, fit)


class Prefetcher:
    """What is to be decoded, in the order in which units need it. Does nothing on a cluster without such nodes."""

    def __init__(self, wanted: Iterable[Wanted], cluster: Cluster, desks: Mapping[str, Any]) -> None:
        """desks: by line, as arguments of tasks."""
        self._fleet, self._desks = cluster, desks
        self._waiting = deque(wanted if cluster.capacity.cpu_nodes else ())
        self._running: dict[Any, str] = {}
        self._there: deque[Carried] = deque()
        self._paused_until = 0.0

    @property
    def running(self) -> list[Any]:
        """References to what is in flight."""
        return list(self._running)

    def fill(self, begun: int) -> None:
        """Keep the nodes busy with what the units after the first `begun` need, so many as may soon begin."""
        if not self._waiting or time.monotonic() < self._paused_until:
            return
        horizon = begun + 2 * max(self._fleet.capacity.count, 1)
        while self._waiting and self._waiting[0].unit < horizon and (node := self._free_node()):
            self._submit(self._waiting.popleft(), node)

    def receive(self, reference: Any) -> bool:
        """Take what a task has done; False when it is none of these."""
        if self._running.pop(reference, None) is None:
            return False
        try:
            self._there.append(ray.get(reference))
        except ray.exceptions.RayError:
            self._paused_until = time.monotonic() + PAUSE_S
        return True

    def _submit(self, shard: Wanted, node: Node) -> None:
        threads = self._threads(node)
        task = decode.options(
            num_cpus=threads,
            max_retries=0,
            name="decode",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
        )
        given = (self._desks[shard.line], shard.shard, shard.fit, threads, self._unwanted())
        self._running[task.remote(*given)] = node.node_id

    def _free_node(self) -> Node | None:
        busy = Counter(self._running.values())
        free = (
            node for node in self._fleet.capacity.cpu_nodes if busy[node.node_id] < node.cpus // self._threads(node)
        )
        return next(free, None)

    def _threads(self, node: Node) -> int:
        return min(self._fleet.capacity.cpus, node.cpus)

    def _unwanted(self) -> tuple[str, ...]:
        """The oldest, while there are too many."""
        names = []
        total = sum(one.size for one in self._there)
        while self._there and total > LIMIT_MB * 2**20:
            oldest = self._there.popleft()
            total -= oldest.size
            names.append(oldest.name)
        return tuple(names)
