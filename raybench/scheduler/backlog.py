"""The jobs that are left to do, and their order. Uses neither Ray nor the store.

A unit goes through train → score (each shard) → aggregate → measure. The next score job of a trained unit comes before
the next unit's training, so that units finish early and loaded detectors are used while they are cached. Speed is
measured when nothing else is left to run, because a busy machine measures slow.

A detector for several lines is fitted once, by a job of the first of its units to begin. The others wait for it, and
fail with it.

A unit that has not begun is a reference in a queue; its jobs are made when it begins. So memory depends on the units
under way, and no step looks at more than one unit.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.perturbations import PerturbedImages
from raybench.runs.cost_model import LeftOut
from raybench.runs.records import Phase
from raybench.runs.run import score_name, scored_name

Answer = Literal["begin", "later"] | LeftOut
MOST_LATER = 256  # units that are asked about in vain before a job is taken
_PHASES: tuple[Phase, ...] = ("train", "score", "aggregate", "measure")
_PRIORITY = {"aggregate": 1, "score": 2, "train": 3, "fit": 3, "measure": 5}  # the lowest first
_PRIORITY_AGAIN = {"aggregate": 0, "score": 0, "train": 0, "fit": 0, "measure": 4}


@dataclass(frozen=True)
class Job:
    """One task of a unit."""

    phase: Phase
    """What is done."""
    unit: Unit
    """The unit it belongs to."""
    images: int
    """Images that are scored; 0 in phases that score none."""
    shards: tuple[ShardInfo, ...] = ()
    """The shards that are scored, one after the other; none in other phases."""
    judges: bool = False
    """Whether its shards are scored already, and only judged by other labels: that takes no detector and no GPU."""
    perturbed: PerturbedImages | None = None
    """The perturbed images that are scored; None in other phases than `robustness`."""

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
class _UnderWay:
    """A unit that has begun, and is neither done nor given up."""

    left: list[Job]
    """Jobs that do not run: first those to be done again, then all others, the next one last."""
    unscored: int
    """How many score jobs are not committed."""


_Heap = list[tuple[float, int, Job]]  # a priority or a time, and a number because jobs cannot be compared


class Backlog:
    """The jobs of all units that are not done."""

    def __init__(
        self,
        units: Iterable[Unit],
        manifests: Mapping[str, Manifest],
        commits: Mapping[str, set[str]],
        images_per_job: int = 0,
        answer: Callable[[Unit], Answer] = lambda unit: "begin",
    ) -> None:
        """Queue the units.

        Args:
            units: in the order in which to begin them.
            manifests: by line.
            commits: names of the commits that exist, by unit_id.
            images_per_job: images to score by one job, about; it has one shard at least.
            answer: whether a unit begins, is asked about later, or is left out.
        """
        self._answer = answer
        self.left_out: dict[str, LeftOut] = {}
        """What units are left out for, by unit_id."""
        self.step_s: Mapping[Phase, float] = {}
        """Estimated seconds of a step of each phase, on average; empty if nothing on record tells."""
        self._images_per_job = images_per_job
        self._commits = commits
        self.manifests = manifests
        self.tallies: dict[Phase, PhaseCount] = {phase: PhaseCount() for phase in _PHASES}
        self.reused = 0
        self._shards = {line: manifest.scored_shards for line, manifest in manifests.items()}
        self._images = {line: _images(shards) for line, shards in self._shards.items()}
        self._under_way: dict[str, _UnderWay] = {}
        self._ready: _Heap = []
        self._paused: _Heap = []
        self._numbers = itertools.count()
        self._held: dict[str, list[Unit]] = {}
        """Units that wait for a detector of several lines to be fitted, by fit_id."""
        self._fitted = set[str]()
        """Detectors of several lines that have been fitted since."""
        trained, untrained = list[Unit](), list[Unit]()
        for unit in units:
            names = self._names(unit)
            if "finished" in names:
                self.reused += 1
            elif not self._count(unit):
                self._begin(unit)
            else:
                (trained if "train" in names else untrained).append(unit)
        if fits := {unit.fit_id for unit in untrained if self._needs_fit(unit)}:
            self.tallies = {"fit": PhaseCount(total=len(fits)), **self.tallies}
        self._unbegun = deque([*trained, *untrained])
        self._untouched = len(self._unbegun)

    @property
    def waiting(self) -> bool:
        """Whether jobs are left that can be taken now or later."""
        return bool(self._unbegun or any(self._held.values()) or self._first(self._ready) or self._first(self._paused))

    def is_open(self, unit_id: str) -> bool:
        """Whether the unit is under way: begun, and neither done nor given up."""
        return unit_id in self._under_way

    def put_back(self, job: Job, pause_s: float) -> None:
        """Queue `job` again, to be taken after a pause at the earliest."""
        self._under_way[job.unit.unit_id].left.insert(0, job)
        heapq.heappush(self._paused, (time.monotonic() + pause_s, next(self._numbers), job))

    def work_s(self) -> tuple[float, float]:
        """Return the estimated seconds of the steps that are done, and of those that are left; 0 if nothing tells."""
        steps = [(self.step_s.get(phase, 0.0), tally) for phase, tally in self.tallies.items()]
        done_s = sum(seconds * tally.done for seconds, tally in steps)
        return done_s, sum(seconds * (tally.total - tally.done - tally.failed) for seconds, tally in steps)

    @property
    def units_open(self) -> int:
        """How many units are neither done nor given up."""
        return len(self._under_way) + len(self._unbegun) + sum(map(len, self._held.values()))

    @property
    def unbegun(self) -> list[Unit]:
        """Units that have not begun, in the order in which they will."""
        return list(self._unbegun)

    @property
    def begun(self) -> int:
        """How many units have begun since the backlog was made."""
        return self._untouched - len(self._unbegun)

    def take(self, busy: bool) -> Job | None:
        """Take the next job; None while none is ready. Timing is not ready while `busy`: other jobs are running."""
        self._end_pauses()
        first, later = self._first(self._ready), list[Unit]()
        while self._unbegun and (first is None or first[0] > _PRIORITY["score"]) and len(later) < MOST_LATER:
            unit = self._unbegun.popleft()
            if self._needs_fit(unit) and unit.fit_id in self._held:
                self._held[unit.fit_id].append(unit)
                continue
            answer = self._answer(unit)
            if answer == "later":
                later.append(unit)
                continue
            if answer != "begin":
                self._leave_out(unit, answer)
                continue
            self._begin(unit)
            first = self._first(self._ready)
            break
        self._unbegun.extendleft(reversed(later))
        if first is None or (busy and first[2].phase == "measure"):
            return None
        priority, number, job = heapq.heappop(self._ready)
        left = self._under_way[job.unit.unit_id].left
        if left[-1] is not job:
            left.remove(job)
            return job
        left.pop()
        if job.phase == "score" and left[-1].phase == "score":
            heapq.heappush(self._ready, (priority, number, left[-1]))
        return job

    def finish(self, job: Job) -> None:
        """Note that `job` is committed, and queue the job that waited for it."""
        tally = self.tallies[job.phase]
        tally.done += job.steps
        tally.images += job.images
        state = self._under_way.get(job.unit.unit_id)
        if state is None:
            return
        state.unscored -= job.phase == "score"
        if job.phase == "fit":
            self._fitted.add(job.unit.fit_id)
            self._unbegun.extendleft(reversed(self._held.pop(job.unit.fit_id, [])))
        if job.phase == "measure":
            del self._under_way[job.unit.unit_id]
        elif job.phase != "score" or not state.unscored:
            self._queue_next(state)

    def fail(self, job: Job) -> list[Unit]:
        """Give up the unit of a failed job, and with a detector for several lines all units that need it.

        Their remaining jobs leave the totals; jobs that still run stay in.

        Returns:
            The units that are given up now: none if that of the job had been before.
        """
        self.tallies[job.phase].failed += job.steps
        state = self._under_way.pop(job.unit.unit_id, None)
        if state is None:
            return []
        waiting = self._give_up_fit(job.unit.fit_id) if job.phase == "fit" else []
        self._take_off([*state.left, *(left for unit in waiting for left in self._jobs(unit))])
        return [job.unit, *waiting]

    def _leave_out(self, unit: Unit, what_for: LeftOut) -> None:
        self.left_out[unit.unit_id] = what_for
        self._take_off(self._jobs(unit))

    def _take_off(self, jobs: Iterable[Job]) -> None:
        """Take jobs off the totals, which nobody will do."""
        for job in jobs:
            self.tallies[job.phase].total -= job.steps
            self.tallies[job.phase].images_total -= job.images

    def _first(self, heap: _Heap) -> tuple[float, int, Job] | None:
        """Return the first entry, after dropping those of units that were given up."""
        while heap and not self.is_open(heap[0][2].unit.unit_id):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _end_pauses(self) -> None:
        while (first := self._first(self._paused)) and first[0] <= time.monotonic():
            _, _, job = heapq.heappop(self._paused)
            heapq.heappush(self._ready, (_PRIORITY_AGAIN[job.phase], next(self._numbers), job))

    def _begin(self, unit: Unit) -> None:
        left = self._jobs(unit)
        if self._needs_fit(unit):
            self._held[unit.fit_id] = []
            left.append(Job("fit", unit, 0))
        state = self._under_way[unit.unit_id] = _UnderWay(left, sum(job.phase == "score" for job in left))
        self._queue_next(state)

    def _jobs(self, unit: Unit) -> list[Job]:
        """Return the jobs of a unit whose detector is fitted, or trained on its line alone; the next one last."""
        trains = [] if "train" in self._names(unit) else [Job("train", unit, 0)]
        return [Job("measure", unit, 0), Job("aggregate", unit, 0), *reversed(self._score_jobs(unit)), *trains]

    def _give_up_fit(self, fit_id: str) -> list[Unit]:
        """Take all units that wait for a detector, or would begin with it, out of the queue; return them."""
        waiting = [*self._held.pop(fit_id, []), *(unit for unit in self._unbegun if unit.fit_id == fit_id)]
        self._unbegun = deque(unit for unit in self._unbegun if unit.fit_id != fit_id)
        return waiting

    def _needs_fit(self, unit: Unit) -> bool:
        """Whether a detector for several lines is to be fitted before the unit can set its thresholds."""
        done = {"fit", "train"} & self._names(unit)
        return bool(unit.together) and not done and unit.fit_id not in self._fitted

    def _queue_next(self, state: _UnderWay) -> None:
        """Queue the unit's next job. Units that were trained last are scored first: their detectors are cached."""
        job, number = state.left[-1], next(self._numbers)
        heapq.heappush(self._ready, (_PRIORITY[job.phase], -number if job.phase == "score" else number, job))

    def _score_jobs(self, unit: Unit) -> list[Job]:
        names, jobs = self._names(unit), list[Job]()
        for shard in self._unscored(unit):
            last, judges = jobs[-1] if jobs else None, bool(names) and scored_name(shard) in names
            if last and last.judges == judges and last.images + shard.rows <= self._images_per_job:
                jobs[-1] = replace(last, images=last.images + shard.rows, shards=(*last.shards, shard))
            else:
                jobs.append(Job("score", unit, shard.rows, (shard,), judges))
        return jobs

    def _unscored(self, unit: Unit) -> Sequence[ShardInfo]:
        shards, names = self._shards[unit.line], self._names(unit)
        if len(names) < 2:  # it saves looking at all shards of most units
            return shards
        return [shard for shard in shards if score_name(shard.key) not in names]

    def _names(self, unit: Unit) -> set[str]:
        return self._commits.get(unit.unit_id, set())

    def _count(self, unit: Unit) -> bool:
        """Add the unit to the tallies. Returns whether it is to be trained or scored."""
        shards, unscored = self._shards[unit.line], self._unscored(unit)
        for phase in _PHASES:
            self.tallies[phase].total += len(shards) if phase == "score" else 1
        trained = "train" in self._names(unit)
        self.tallies["train"].done += trained
        score = self.tallies["score"]
        score.images_total += self._images[unit.line]
        score.done += len(shards) - len(unscored)
        score.images += self._images[unit.line] - _images(unscored)
        return bool(unscored) or not trained


def _images(shards: Iterable[ShardInfo]) -> int:
    return sum(shard.rows for shard in shards)
