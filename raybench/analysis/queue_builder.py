"""Build the annotation queue of each line from a run's commits, and evaluate what its budget finds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, ScoredImage, build_flags, voting_models
from raybench.analysis.label_noise import HeldOutScores, suspected_label_noise
from raybench.analysis.queue import random_checks, rank_flags
from raybench.analysis.queue_evaluation import QueueEvaluation, evaluate_queue
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.labels import set_aside
from raybench.metrics.descriptors import Descriptors
from raybench.metrics.image import ImageScores
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name

READERS = 16
BadImages = Callable[[str], Mapping[str, str]]


@dataclass(frozen=True)
class Queue:
    """The annotation queue of one line."""

    flags: tuple[Flag, ...]
    """Flags by rank."""
    evaluation: QueueEvaluation


@dataclass(frozen=True)
class QueueBuilder:
    """Builds the annotation queues of a run."""

    plan: Plan
    run: RunStore
    board: Board
    units: Sequence[Unit]
    """Finished units."""
    bad: BadImages = lambda line: {}
    """Returns the description of the fault of each bad picture of a line, by image_id."""

    def queues(self, images: Sequence[ScoredImage]) -> list[Queue]:
        """Build the queue of each line that has scored images. images: sorted by line."""
        by_line = [list(group) for _, group in itertools.groupby(images, key=lambda image: image.line)]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self.queue, by_line))

    def queue(self, images: Sequence[ScoredImage]) -> Queue:
        """Build the queue of one line from its scored images."""
        line, budget = images[0].line, self.plan.experiment.annotation.budget
        aside = set_aside(self.plan.lines_of(line), self.plan.manifests[line].scored_shards)
        bad = self.bad(line)
        false_alarm_budget = self.plan.experiment.on(line).false_alarm_budget
        held_out = HeldOutScores(line, dict(self._held_out(line)), false_alarm_budget)
        asked = [image for image in images if image.image_id not in aside]
        flags = [*build_flags(asked, bad), *suspected_label_noise(held_out, bad)]
        descriptors, count = self.descriptors(line), self.plan.experiment.annotation.random_checks
        chosen = {flag.image_id for flag in rank_flags(flags, descriptors, budget - count) if flag.picked}
        left = (image for image in asked if image.image_id not in chosen)  # a sample of images that nobody has chosen
        checks = random_checks(left, self.plan.manifests[line].sampled, count)
        queue = rank_flags(flags, descriptors, budget, build_flags(checks, bad, at_random=True))
        return Queue(tuple(queue), evaluate_queue(queue, images, descriptors, budget, held_out.count))

    @functools.cached_property
    def _by_line(self) -> Mapping[str, Sequence[Unit]]:
        """Finished units by line, the first seed first."""
        by_line: dict[str, list[Unit]] = {}
        for unit in sorted(self.units, key=lambda unit: unit.seed):
            by_line.setdefault(unit.line, []).append(unit)
        return by_line

    def _voting_units(self, line: str) -> list[Unit]:
        """Return the first finished seed of each voting model, the cleanest heat maps first."""
        voters = voting_models(self.board.verdict_on(line))
        rows = self.board.rows_of(line)
        heat = {row.model: row.finished.heat.worth for row in rows if row.finished and row.finished.heat}
        by_model: dict[str, Unit] = {}
        for unit in self._by_line.get(line, ()):
            if unit.model in voters or not voters:
                by_model.setdefault(unit.model, unit)
        return sorted(by_model.values(), key=lambda unit: (-heat.get(unit.model, 0.0), unit.model))

    def _held_out(self, line: str) -> Iterator[tuple[str, ImageScores]]:
        for unit in self._voting_units(line):
            trained = self.run.read(unit.detector_id, "train", TrainRecord)
            if trained:
                yield unit.model, ImageScores.from_bytes(self.run.get_blob(trained.held_out))

    def descriptors(self, line: str) -> Descriptors:
        """Return the image descriptors of the voting model with the cleanest heat maps; empty if none was stored."""
        stored = (self._descriptors_of(unit) for unit in self._voting_units(line))
        return next((descriptors for descriptors in stored if len(descriptors.image_ids)), Descriptors.empty())

    def _descriptors_of(self, unit: Unit) -> Descriptors:
        names = [score_name(shard.key) for shard in self.plan.manifests[unit.line].scored_shards]
        records = (self.run.read(unit.unit_id, name, ScoreRecord) for name in names)
        blobs = (record.traits for record in records if record)
        return Descriptors.empty().merge(*(Descriptors.from_bytes(self.run.get_blob(blob)) for blob in blobs))
