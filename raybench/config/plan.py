"""From an experiment to its units: everything that can be known to be wrong is said before a GPU second is spent."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.config.experiment import (
    Experiment,
    InputChoice,
    ModelChoice,
    parse_experiment,
    read_experiment,
    split_line,
)
from raybench.config.unit import Unit
from raybench.data.catalog import find_lines
from raybench.data.geometry import Input, is_square, plan_fit, plan_tiles
from raybench.data.manifest import Manifest, read_manifest
from raybench.detectors import registry, weights
from raybench.detectors.protocol import ModelSpec
from raybench.errors import ExperimentError, InputError, ModelError, did_you_mean
from raybench.store import Store, open_store

if TYPE_CHECKING:
    import pandas

MIN_TRAIN_OK = 4


@dataclass(frozen=True)
class PlannedUnit:
    """A unit before it is begun."""

    unit_id: str
    line: str
    model: str
    detector: str
    seed: int
    input: Input
    train_ok: int
    """OK images to train on and to hold back."""
    scored: int
    """Images to score."""

    @property
    def input_text(self) -> str:
        return f"{self.input.height}×{self.input.width} {self.input.mode}"


@dataclass(frozen=True)
class Plan:
    """manifests: by line. units: in the order they are started: by model as the experiment lists them, then by line,
    then those on squashed images. squashed: their unit_id by that of the unit they are held against. asides: unit_ids
    that are there for the non-square column only. weights: the weights store, where one is named. elsewhere: by line,
    the store of lines that holds it, of those that do not lie in `store`."""

    experiment: Experiment
    store: Store
    manifests: Mapping[str, Manifest]
    units: tuple[Unit, ...]
    weights: Store | None = None
    squashed: Mapping[str, str] = field(default_factory=dict)
    asides: frozenset[str] = frozenset()
    elsewhere: Mapping[str, Store] = field(default_factory=dict)

    def lines_of(self, line: str) -> Store:
        """The store of lines that holds `line`."""
        return self.elsewhere.get(line) or self.store.sub("lines")

    def with_retry_timeout(self, seconds: float) -> Plan:
        """The same plan, whose stores wait so long for a server in trouble."""
        stores = {lines.uri(): lines.with_retry_timeout(seconds) for lines in self.elsewhere.values()}
        return replace(
            self,
            store=self.store.with_retry_timeout(seconds),
            weights=self.weights.with_retry_timeout(seconds) if self.weights else None,
            elsewhere={line: stores[lines.uri()] for line, lines in self.elsewhere.items()},
        )

    @property
    def compared(self) -> tuple[Unit, ...]:
        """The units that are rows of the board."""
        return tuple(unit for unit in self.units if unit.unit_id not in self.asides)

    def to_frame(self) -> pandas.DataFrame:
        """Return a row per unit, with the size of its input (pixels) and its number of images."""
        import pandas as pd

        rows = [
            {**vars(unit), "input": f"{unit.input.height}×{unit.input.width} {unit.input.mode}"}
            for unit in planned_units(self)
        ]
        return pd.DataFrame(rows).set_index(["line", "model", "seed"])


def open_experiment_store(experiment: Experiment) -> Store:
    return open_store(experiment.store, **experiment.storage.model_dump())


def experiment_of(name: str) -> Experiment:
    """The experiment of a run, given its file or the run's URI `<store>/runs/<run>`.

    Raises ExperimentError, InputError, or the store's own errors.
    """
    root, runs, run = name.rstrip("/").rpartition("/runs/")
    if Path(name).is_file() or not runs:
        return read_experiment(Path(name))
    where = f"{name}/experiment.yaml"
    try:
        text = open_store(root).get(f"runs/{run}/experiment.yaml").decode()
    except UnicodeDecodeError as error:
        raise ExperimentError(where, [f"cannot be read as UTF-8 text: {error}"]) from error
    return parse_experiment(text, where)


def make_plan(experiment: Experiment, where: str = "experiment") -> Plan:
    """The plan of `experiment`. Reads the store and writes nothing there.

    Raises ExperimentError with every fault of models and lines, or the store's own errors.
    """
    store = open_experiment_store(experiment)
    problems: list[str] = []
    weights_store = open_weights_store(experiment)
    specs = _specs(experiment, weights_store, problems)
    homes = find_lines(_wanted(experiment, store), problems)
    manifests = _manifests(homes, problems)
    problems += _idle_overrides(experiment, list(manifests))
    if problems:
        raise ExperimentError(where, problems)
    here = {line: experiment.on(line) for line in manifests}
    units = tuple(
        _unit(here[line], manifest, choice, spec, seed)
        for label, spec in specs.items()
        for line, manifest in manifests.items()
        for choice in here[line].models
        if choice.shown == label
        for seed in here[line].seeds
    )
    twins = {unit.unit_id: twin for unit in units if (twin := _squashed(unit, here[unit.line], specs[unit.model]))}
    listed = {unit.unit_id for unit in units}
    extra = tuple(twin for twin in twins.values() if twin.unit_id not in listed)
    squashed = {unit_id: twin.unit_id for unit_id, twin in twins.items()}
    asides = frozenset(twin.unit_id for twin in extra)
    elsewhere = {line: home for line, home in homes.items() if home.uri() != store.uri("lines")}
    return Plan(experiment, store, manifests, (*units, *extra), weights_store, squashed, asides, elsewhere)


def check_models(experiment: Experiment) -> None:
    """Look at an experiment's models and their weights alone, before its lines are packed.

    Raises:
        ExperimentError: All their faults.
    """
    problems: list[str] = []
    _specs(experiment, open_weights_store(experiment), problems)
    if problems:
        raise ExperimentError("experiment", problems)


def open_weights_store(experiment: Experiment) -> Store | None:
    """The weights store that the experiment or $RAYBENCH_WEIGHTS names; None when neither does."""
    uri = experiment.weights or os.environ.get("RAYBENCH_WEIGHTS", "")
    return open_store(uri, **experiment.storage.model_dump()) if uri else None


def _specs(experiment: Experiment, weights_store: Store | None, problems: list[str]) -> dict[str, ModelSpec]:
    """By label."""
    return {
        choice.shown: spec
        for choice in experiment.all_models
        if (spec := _spec(choice, experiment.preset, weights_store, problems))
    }


def _spec(choice: ModelChoice, preset: str, weights_store: Store | None, problems: list[str]) -> ModelSpec | None:
    try:
        spec = registry.resolve(choice.name, choice.config, preset)
        return replace(spec, weights=weights.resolve(spec.weights, weights_store))
    except ExperimentError as error:
        problems.extend(f"models: {choice.shown}: {text}" for text in error.problems)
    except (InputError, ModelError) as error:
        problems.append(f"models: {choice.shown}: {error}")
    return None


def _wanted(experiment: Experiment, store: Store) -> Iterator[tuple[Store, str]]:
    for entry in experiment.lines:
        folder, pattern = split_line(entry)
        yield open_store(folder, **experiment.storage.model_dump()) if folder else store.sub("lines"), pattern


def _manifests(homes: Mapping[str, Store], problems: list[str]) -> dict[str, Manifest]:
    found = {line: read_manifest(lines, line) for line, lines in homes.items()}
    for name, manifest in found.items():
        if (ok := manifest.counts.get("train/ok", 0)) < MIN_TRAIN_OK:
            problems.append(
                f"lines: {name} has {ok} OK images to train on and needs at least {MIN_TRAIN_OK}; add OK images "
                "to its train split and pack it again"
            )
    return found


def _idle_overrides(experiment: Experiment, lines: Sequence[str]) -> Iterator[str]:
    """What is wrong with overrides that change nothing."""
    at_work = {pattern for line in lines for pattern in experiment.overridden(line).values()}
    for pattern in experiment.overrides:
        if not fnmatch.filter(lines, pattern):
            yield f"overrides: {pattern!r} fits no line of the experiment; {did_you_mean(pattern, lines)}"
        elif pattern not in at_work:
            yield f"overrides: {pattern!r} changes nothing: it is empty, or others that stand below it say otherwise"


def _unit(experiment: Experiment, manifest: Manifest, choice: ModelChoice, spec: ModelSpec, seed: int) -> Unit:
    config: dict[str, Any] = dict(spec.config)
    return Unit(
        line=manifest.line,
        line_digest=manifest.digest,
        model=choice.shown,
        detector=spec.name,
        config=config,
        weights=dict(spec.weights),
        input=_input(choice.input or experiment.input, manifest, spec),
        seed=seed,
        protocol=experiment.protocol,
    )


def _squashed(unit: Unit, experiment: Experiment, spec: ModelSpec) -> Unit | None:
    """The same unit on squashed images, for a line that is not square; of the first seed only. experiment: as it is for
    the unit's line."""
    here = unit.input
    if not experiment.squashed_twins or unit.seed != experiment.seeds[0] or here.mode == "squash":
        return None
    if is_square(here.source_height, here.source_width):
        return None
    choice = next(choice for choice in experiment.models if choice.shown == unit.model)
    pixels = (choice.input or experiment.input).pixels
    fit = plan_fit("squash", here.source_height, here.source_width, pixels, stride=spec.stride, min_side=spec.min_side)
    size = Input(fit.mode, fit.height, fit.width, here.source_height, here.source_width)
    return replace(unit, model=f"{unit.model} (squashed)", input=size)


def _input(choice: InputChoice, manifest: Manifest, spec: ModelSpec) -> Input:
    height, width, tile = manifest.median_height, manifest.median_width, 0
    limits = {"stride": spec.stride, "min_side": spec.min_side}
    if choice.fit == "tile":
        fit, tile = plan_tiles(height, width, choice.pixels, choice.tiles, **limits)
    else:
        fit = plan_fit(choice.fit, height, width, choice.pixels, **limits)
    return Input(fit.mode, fit.height, fit.width, height, width, tile)


def planned_units(plan: Plan) -> list[PlannedUnit]:
    """The units of `plan`, in its order."""
    return [
        PlannedUnit(
            unit_id=unit.unit_id,
            line=unit.line,
            model=unit.model,
            detector=unit.detector,
            seed=unit.seed,
            input=unit.input,
            train_ok=plan.manifests[unit.line].counts.get("train/ok", 0),
            scored=sum(shard.rows for shard in plan.manifests[unit.line].scored_shards),
        )
        for unit in plan.units
    ]
