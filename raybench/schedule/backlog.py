"""What is left to do, and in which order. Pure bookkeeping: knows no Ray and no store.

A unit goes through train → score (each shard) → aggregate → measure. The next score job of a trained unit comes before
the next unit's training, so that units finish early and loaded detectors are used while hot. Speed is measured when
nothing else is left to run, because a busy machine measures slow.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from raybench.lines.manifest import Manifest, ShardInfo
from raybench.results import Phase
from raybench.runs import score_name
from raybench.units import Unit

_PHASES: tuple[Phase, ...] = ("train", "score", "aggregate", "measure")


@dataclass(frozen=True)
class Job:
    """One task. shard: for score only. images: how many images it looks at."""

    phase: Phase
    unit: Unit
    images: int
    shard: ShardInfo | None = None


@dataclass
class Tally:
    """Progress of one phase. done, total: jobs. images: looked at so far, of `images_total`."""

    done: int = 0
    total: int = 0
    images: int = 0
    images_total: int = 0
    failed: int = 0


@dataclass
class _Open:
    """A unit under way. shards: keys still to be scored."""

    unit: Unit
    shards: set[str]


class Backlog:
    """Jobs of the units that `commits` (unit_id → names) does not show as done."""

    def __init__(
        self, units: Iterable[Unit], manifests: Mapping[str, Manifest], commits: Mapping[str, set[str]]
    ) -> None:
        self.manifests = manifests
        self.tallies: dict[Phase, Tally] = {phase: Tally() for phase in _PHASES}
        self.reused = 0
        self._open: dict[str, _Open] = {}
        self._ready: deque[Job] = deque()
        self._last: deque[Job] = deque()
        self._paused: list[tuple[float, Job]] = []
        for unit in units:
            self._plan(unit, commits.get(unit.unit_id, set()))

    @property
    def waiting(self) -> bool:
        """Whether jobs are left that can be taken now or later."""
        return bool(self._ready or self._last or self._paused)

    def is_open(self, unit_id: str) -> bool:
        """Whether the unit is still under way: neither done nor given up."""
        return unit_id in self._open

    def put_back(self, job: Job, pause_s: float) -> None:
        """`job` is to be done again, no sooner than after a pause."""
        self._paused.append((time.monotonic() + pause_s, job))

    @property
    def units_open(self) -> int:
        """How many units are neither done nor given up."""
        return len(self._open)

    def take(self, busy: bool) -> Job | None:
        """The next job, or None while there is none ready. `busy`: jobs other than `measure` are running."""
        self._end_pauses()
        if self._ready:
            return self._ready.popleft()
        return self._last.popleft() if self._last and not busy else None

    def finish(self, job: Job) -> None:
        """`job` is committed: what it made possible becomes ready."""
        tally = self.tallies[job.phase]
        tally.done += 1
        tally.images += job.images
        state = self._open.get(job.unit.unit_id)
        if state is None:
            return
        if job.phase == "train":
            self._after_train(state)
        elif job.phase == "score" and job.shard is not None:
            state.shards.discard(job.shard.key)
            if not state.shards:
                self._ready.appendleft(Job("aggregate", job.unit, 0))
        elif job.phase == "aggregate":
            self._last.append(Job("measure", job.unit, 0))
        else:
            del self._open[job.unit.unit_id]

    def fail(self, job: Job) -> bool:
        """`job` failed: its unit is given up. False when the unit had been given up before."""
        self.tallies[job.phase].failed += 1
        unit_id = job.unit.unit_id
        state = self._open.pop(unit_id, None)
        if state is None:
            return False
        waiting = [*self._ready, *(other for _, other in self._paused)]
        given_up = [other for other in waiting if other.unit.unit_id == unit_id]
        self._ready = deque(other for other in self._ready if other.unit.unit_id != unit_id)
        self._paused = [(end, other) for end, other in self._paused if other.unit.unit_id != unit_id]
        self._forget(state, job.phase, given_up)
        return True

    def _end_pauses(self) -> None:
        now = time.monotonic()
        over = [job for end, job in self._paused if end <= now]
        self._paused = [(end, job) for end, job in self._paused if end > now]
        self._last.extendleft(job for job in over if job.phase == "measure")
        self._ready.extendleft(job for job in over if job.phase != "measure")

    def _forget(self, state: _Open, phase: Phase, given_up: Sequence[Job]) -> None:
        """Jobs that will not come any more leave the totals."""
        later = _PHASES[_PHASES.index(phase) + 1 :]
        for name in later:
            if name == "score":
                shards = self.manifests[state.unit.line].scored_shards
                self._shrink("score", [shard.rows for shard in shards if shard.key in state.shards])
            else:
                self._shrink(name, [0])
        self._shrink(phase, [job.images for job in given_up])

    def _shrink(self, phase: Phase, images: Sequence[int]) -> None:
        self.tallies[phase].total -= len(images)
        self.tallies[phase].images_total -= sum(images)

    def _plan(self, unit: Unit, names: set[str]) -> None:
        if "result" in names:
            self.reused += 1
            return
        manifest = self.manifests[unit.line]
        missing = {shard.key for shard in manifest.scored_shards if score_name(shard.key) not in names}
        state = self._open[unit.unit_id] = _Open(unit, missing)
        for phase in _PHASES:
            images = [shard.rows for shard in manifest.scored_shards] if phase == "score" else [0]
            self.tallies[phase].total += len(images)
            self.tallies[phase].images_total += sum(images)
        if "train" not in names:
            self._ready.append(Job("train", unit, 0))
            return
        self.tallies["train"].done += 1
        self._after_train(state)

    def _after_train(self, state: _Open) -> None:
        unit, shards = state.unit, self.manifests[state.unit.line].scored_shards
        for shard in reversed(shards):
            if shard.key in state.shards:
                self._ready.appendleft(Job("score", unit, shard.rows, shard))
            else:
                self.tallies["score"].done += 1
                self.tallies["score"].images += shard.rows
        if not state.shards:
            self._ready.appendleft(Job("aggregate", unit, 0))
