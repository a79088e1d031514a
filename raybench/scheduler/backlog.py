"""The jobs that are left to do, and their order. Uses neither Ray nor the store.

A unit goes through train → score (each shard) → aggregate → measure. The next score job of a trained unit comes before
the next unit's training, so that units finish early and loaded detectors are used while they are cached. Speed is
measured when nothing else is left to run, because a busy machine measures slow.

A unit that has not begun is a reference in a queue; its jobs are made when they are taken. So memory depends on the
units under way, and no step looks at more than one unit.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.runs.records import Phase
from raybench.runs.run import score_name

_PHASES: tuple[Phase, ...] = ("train", "score", "aggregate", "measure")
_Key = tuple[str, Phase, str]


@dataclass(frozen=True)
class Job:
    """One task of a unit."""

    phase: Phase
    """What is done."""
    unit: Unit
    """The unit it belongs to."""
    images: int
    """Images that are scored; 0 in other phases."""
    shards: tuple[ShardInfo, ...] = ()
    """The shards that are scored, one after the other; none in other phases."""

    @property
    def steps(self) -> int:
        """How many steps of progress it is: one per shard, or one."""
        return len(self.shards) or 1


@dataclass
class PhaseCount:
    """Progress of one phase."""

    done: int = 0
    """Jobs that are committed."""
    total: int = 0
    """Jobs in all: done, failed and left."""
    images: int = 0
    """Images of the jobs that are done."""
    images_total: int = 0
    """Images of all jobs."""
    failed: int = 0
    """Jobs that ended a unit."""


@dataclass(slots=True)
class _Open:
    """A unit under way."""

    shards: list[ShardInfo]
    """Shards that are still to be taken, the next one last."""
    unscored: int
    """How many shards are not scored."""
    back: dict[_Key, Job] = field(default_factory=dict)
    """Jobs that are to be done again."""


class Backlog:
    """The jobs of all units that are not done."""

    def __init__(
        self,
        units: Iterable[Unit],
        manifests: Mapping[str, Manifest],
        commits: Mapping[str, set[str]],
        images_per_job: int = 0,
    ) -> None:
        """Queue the units.

        Args:
            units: in the order in which to begin them.
            manifests: by line.
            commits: names of the commits that exist, by unit_id.
            images_per_job: images to score by one job, about; it has one shard at least.
        """
        self._images_per_job = images_per_job
        self.manifests = manifests
        self.tallies: dict[Phase, PhaseCount] = {phase: PhaseCount() for phase in _PHASES}
        self.reused = 0
        self._shards = {line: manifest.scored_shards for line, manifest in manifests.items()}
        self._images = {line: sum(shard.rows for shard in shards) for line, shards in self._shards.items()}
        self._open: dict[str, _Open] = {}
        self._untrained: deque[Unit] = deque()
        self._trained: deque[Unit] = deque()
        self._scored: deque[Unit] = deque()
        self._to_aggregate: deque[Unit] = deque()
        self._to_measure: deque[Unit] = deque()
        self._scoring: OrderedDict[str, Unit] = OrderedDict()
        self._names: dict[str, set[str]] = {}
        self._again: OrderedDict[_Key, Job] = OrderedDict()
        self._measure_again: OrderedDict[_Key, Job] = OrderedDict()
        self._paused: dict[_Key, Job] = {}
        self._ends: list[tuple[float, _Key]] = []
        for unit in units:
            self._plan(unit, commits.get(unit.unit_id, set()))
        self._untouched = len(self.unbegun)

    @property
    def waiting(self) -> bool:
        """Whether jobs are left that can be taken now or later."""
        queues = (self._again, self._scored, self._to_aggregate, self._scoring, self._trained, self._untrained)
        return any(map(bool, (*queues, self._to_measure, self._measure_again, self._paused)))

    def is_open(self, unit_id: str) -> bool:
        """Whether the unit is under way: begun, and neither done nor given up."""
        return unit_id in self._open

    def put_back(self, job: Job, pause_s: float) -> None:
        """Queue `job` again, to be taken after a pause at the earliest."""
        key = _key(job)
        self._open[job.unit.unit_id].back[key] = self._paused[key] = job
        heapq.heappush(self._ends, (time.monotonic() + pause_s, key))

    @property
    def units_open(self) -> int:
        """How many units are neither done nor given up."""
        return len(self._open) + len(self._scored) + len(self._trained) + len(self._untrained)

    @property
    def unbegun(self) -> list[Unit]:
        """Units that have not begun, in the order in which they will."""
        return [*self._trained, *self._untrained]

    @property
    def begun(self) -> int:
        """How many units have begun since the backlog was made."""
        return self._untouched - len(self._trained) - len(self._untrained)

    def take(self, busy: bool) -> Job | None:
        """Take the next job; None while none is ready. Timing is not ready while `busy`: other jobs are running."""
        self._end_pauses()
        if self._again:
            return self._taken_again(self._again)
        if self._to_aggregate:
            return Job("aggregate", self._to_aggregate.popleft(), 0)
        if self._scored:
            return Job("aggregate", self._begin(self._scored.popleft()), 0)
        if not self._scoring and self._trained:
            self._to_be_scored(self._begin(self._trained.popleft()))
        if self._scoring:
            return self._next_shards()
        if self._untrained:
            return Job("train", self._begin(self._untrained.popleft()), 0)
        return None if busy else self._next_measure()

    def finish(self, job: Job) -> None:
        """Note that `job` is committed, and queue the jobs that waited for it."""
        tally = self.tallies[job.phase]
        tally.done += job.steps
        tally.images += job.images
        state = self._open.get(job.unit.unit_id)
        if state is None:
            return
        if job.phase == "train":
            self._to_be_scored(job.unit)
        elif job.phase == "score":
            state.unscored -= job.steps
            if not state.unscored:
                self._to_aggregate.append(job.unit)
        elif job.phase == "aggregate":
            self._to_measure.append(job.unit)
        else:
            del self._open[job.unit.unit_id]

    def fail(self, job: Job) -> bool:
        """Give up the unit of a failed job. Returns False when it had been given up before."""
        self.tallies[job.phase].failed += job.steps
        unit_id = job.unit.unit_id
        state = self._open.pop(unit_id, None)
        if state is None:
            return False
        self._scoring.pop(unit_id, None)
        for key in state.back:
            for queue in (self._paused, self._again, self._measure_again):
                queue.pop(key, None)
        self._forget(job, state)
        return True

    def _taken_again(self, queue: OrderedDict[_Key, Job]) -> Job:
        key, job = queue.popitem(last=False)
        del self._open[job.unit.unit_id].back[key]
        return job

    def _next_shards(self) -> Job:
        unit_id, unit = next(iter(self._scoring.items()))
        left = self._open[unit_id].shards
        taken = [left.pop()]
        while left and sum(shard.rows for shard in (*taken, left[-1])) <= self._images_per_job:
            taken.append(left.pop())
        if not left:
            del self._scoring[unit_id]
        return Job("score", unit, sum(shard.rows for shard in taken), tuple(taken))

    def _next_measure(self) -> Job | None:
        if self._measure_again:
            return self._taken_again(self._measure_again)
        return Job("measure", self._to_measure.popleft(), 0) if self._to_measure else None

    def _end_pauses(self) -> None:
        now = time.monotonic() if self._ends else 0.0
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            if job := self._paused.pop(key, None):
                queue = self._measure_again if job.phase == "measure" else self._again
                queue[key] = job

    def _begin(self, unit: Unit) -> Unit:
        missing = self._missing(unit, self._names.pop(unit.unit_id, set()))
        self._open[unit.unit_id] = _Open(missing, len(missing))
        return unit

    def _to_be_scored(self, unit: Unit) -> None:
        """Score a trained unit before all others."""
        if self._open[unit.unit_id].shards:
            self._scoring[unit.unit_id] = unit
            self._scoring.move_to_end(unit.unit_id, last=False)
        else:
            self._to_aggregate.append(unit)

    def _forget(self, job: Job, state: _Open) -> None:
        """Take the unit's remaining jobs out of the totals; jobs that still run stay in."""
        phase = job.phase
        shards = [*state.shards, *(shard for other in state.back.values() for shard in other.shards)]
        self._shrink("score", [shard.rows for shard in shards])
        for name in _PHASES[_PHASES.index(phase) + 1 :]:
            if name != "score":
                self._shrink(name, [0])

    def _shrink(self, phase: Phase, images: Sequence[int]) -> None:
        self.tallies[phase].total -= len(images)
        self.tallies[phase].images_total -= sum(images)

    def _missing(self, unit: Unit, names: set[str]) -> list[ShardInfo]:
        """The shards that are not scored, the first one last."""
        return [shard for shard in reversed(self._shards[unit.line]) if score_name(shard.key) not in names]

    def _plan(self, unit: Unit, names: set[str]) -> None:
        if "result" in names:
            self.reused += 1
            return
        shards = self._shards[unit.line]
        for phase in _PHASES:
            self.tallies[phase].total += len(shards) if phase == "score" else 1
        self.tallies["score"].images_total += self._images[unit.line]
        if len(names) > 1:
            self._names[unit.unit_id] = names
        missing = self._missing(unit, names) if self._names.get(unit.unit_id) else shards
        self.tallies["score"].done += len(shards) - len(missing)
        self.tallies["score"].images += self._images[unit.line] - sum(shard.rows for shard in missing)
        if "train" not in names:
            self._untrained.append(unit)
            return
        self.tallies["train"].done += 1
        (self._trained if missing else self._scored).append(unit)


def _key(job: Job) -> _Key:
    return job.unit.unit_id, job.phase, job.shards[0].key if job.shards else ""
