"""The annotation queue of each line, from what a run's commits say: its flags by rank, and what the budget buys."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, ScoredImage, build_flags, voting_models
from raybench.analysis.label_noise import HeldOutScores, suspected_label_noise
from raybench.analysis.queue import rank_flags
from raybench.analysis.queue_evaluation import QueueEvaluation, evaluate_queue
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.image import ImageScores
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import Run, score_name

READERS = 16
Bad = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Queue:
    """flags: of one line, by rank."""

    flags: tuple[Flag, ...]
    payoff: QueueEvaluation


@dataclass(frozen=True)
class QueueBuilder:
    """Where flags are made. units: finished ones. bad: image id → what is wrong with the picture, of a line."""

    plan: Plan
    run: Run
    board: Board
    units: Sequence[Unit]
    bad: Bad = lambda line: {}

    def queues(self, seen: Sequence[ScoredImage]) -> list[Queue]:
        """One of each line that has any scored image. seen: sorted by line."""
        by_line = [list(group) for _, group in itertools.groupby(seen, key=lambda one: one.line)]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.queue, by_line))

    def queue(self, seen: Sequence[ScoredImage]) -> Queue:
        """seen: images of one line."""
        line, budget = seen[0].line, self.plan.experiment.annotation.budget
        bad = self.bad(line)
        held_back = HeldOutScores(line, dict(self._held_back(line)), self.plan.experiment.false_alarm_budget)
        flags = [*build_flags(seen, bad), *suspected_label_noise(held_back, bad)]
        traits = self.traits(line)
        queue = rank_flags(flags, traits, budget)
        return Queue(tuple(queue), evaluate_queue(queue, seen, traits, budget, held_back.count))

    @functools.cached_property
    def _by_line(self) -> Mapping[str, Sequence[Unit]]:
        """The first seed first."""
        found: dict[str, list[Unit]] = {}
        for unit in sorted(self.units, key=lambda unit: unit.seed):
            found.setdefault(unit.line, []).append(unit)
        return found

    def _counting(self, line: str) -> list[Unit]:
        """The first finished seed of each model that counts, the cleanest heat maps first."""
        best = voting_models(self.board.verdict_on(line))
        heat = {row.model: row.heat.worth for row in self.board.rows_of(line) if row.heat}
        found: dict[str, Unit] = {}
        for unit in self._by_line.get(line, ()):
            if unit.model in best or not best:
                found.setdefault(unit.model, unit)
        return sorted(found.values(), key=lambda unit: (-heat.get(unit.model, 0.0), unit.model))

    def _held_back(self, line: str) -> Iterator[tuple[str, ImageScores]]:
        for unit in self._counting(line):
            trained = self.run.read(unit.unit_id, "train", TrainRecord)
            if trained and trained.held_out:
                yield unit.model, ImageScores.from_bytes(self.run.get_blob(trained.held_out))

    def traits(self, line: str) -> Descriptors:
        """Of the model with the cleanest heat maps; nothing where they were not described when they were made."""
        found = (self._traits_of(unit) for unit in self._counting(line))
        return next((traits for traits in found if len(traits.image_ids)), Descriptors.empty())

    def _traits_of(self, unit: Unit) -> Descriptors:
        names = [score_name(shard.key) for shard in self.plan.manifests[unit.line].scored_shards]
        records = (self.run.read(unit.unit_id, name, ScoreRecord) for name in names)
        blobs = (record.traits for record in records if record and record.traits)
        return Descriptors.empty().merge(*(Descriptors.from_bytes(self.run.get_blob(blob)) for blob in blobs))
