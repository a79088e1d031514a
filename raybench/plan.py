"""From an experiment to its units: everything that can be known to be wrong is said before a GPU second is spent."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raybench.errors import ExperimentError, InputError, ModelError, did_you_mean
from raybench.experiment import Experiment, InputChoice, ModelChoice, parse_experiment, read_experiment
from raybench.lines.fit import is_square, plan_fit, plan_tiles
from raybench.lines.manifest import Manifest, read_manifest
from raybench.models import registry, weights
from raybench.models.base import ModelSpec
from raybench.results import Input
from raybench.store import Store, open_store
from raybench.units import Unit

MIN_TRAIN_OK = 4


@dataclass(frozen=True)
class Plan:
    """manifests: by line. units: in the order they are started: by model as the experiment lists them, then by line,
    then those on squashed images. squashed: their unit_id by that of the unit they are held against. asides: unit_ids
    that are there for the non-square column only. weights: the weights store, where one is named."""

    experiment: Experiment
    store: Store
    manifests: Mapping[str, Manifest]
    units: tuple[Unit, ...]
    weights: Store | None = None
    squashed: Mapping[str, str] = field(default_factory=dict)
    asides: frozenset[str] = frozenset()

    @property
    def compared(self) -> tuple[Unit, ...]:
        """The units that are rows of the board."""
        return tuple(unit for unit in self.units if unit.unit_id not in self.asides)


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
    specs = [
        (choice, spec)
        for choice in experiment.models
        if (spec := _spec(choice, experiment.preset, weights_store, problems))
    ]
    manifests = _manifests(experiment, store.sub("lines"), problems)
    if problems:
        raise ExperimentError(where, problems)
    units = tuple(
        _unit(experiment, manifest, choice, spec, seed)
        for choice, spec in specs
        for manifest in manifests.values()
        for seed in experiment.seeds
    )
    twins = {unit.unit_id: twin for unit in units if (twin := _squashed(unit, experiment, specs))}
    listed = {unit.unit_id for unit in units}
    extra = tuple(twin for twin in twins.values() if twin.unit_id not in listed)
    squashed = {unit_id: twin.unit_id for unit_id, twin in twins.items()}
    asides = frozenset(twin.unit_id for twin in extra)
    return Plan(experiment, store, manifests, (*units, *extra), weights_store, squashed, asides)


def open_weights_store(experiment: Experiment) -> Store | None:
    """The weights store that the experiment or $RAYBENCH_WEIGHTS names; None when neither does."""
    uri = experiment.weights or os.environ.get("RAYBENCH_WEIGHTS", "")
    return open_store(uri, **experiment.storage.model_dump()) if uri else None


def _spec(choice: ModelChoice, preset: str, weights_store: Store | None, problems: list[str]) -> ModelSpec | None:
    try:
        spec = registry.resolve(choice.name, choice.config, preset)
        return replace(spec, weights=weights.resolve(spec.weights, weights_store))
    except ExperimentError as error:
        problems.extend(f"models: {choice.shown}: {text}" for text in error.problems)
    except (InputError, ModelError) as error:
        problems.append(f"models: {choice.shown}: {error}")
    return None


def _manifests(experiment: Experiment, lines: Store, problems: list[str]) -> dict[str, Manifest]:
    packed = packed_lines(lines)
    found: dict[str, Manifest] = {}
    for pattern in experiment.lines:
        names = fnmatch.filter(packed, pattern)
        if not names:
            hint = f"; {did_you_mean(pattern, packed)}" if packed else ""
            problems.append(
                f"lines: {pattern!r} is not packed in {lines.uri()}{hint}; "
                f"pack it with: raybench pack FOLDER --line {pattern} --to {experiment.store}"
            )
        for name in names:
            manifest = found[name] = read_manifest(lines, name)
            if (ok := manifest.counts.get("train/ok", 0)) < MIN_TRAIN_OK:
                problems.append(
                    f"lines: {name} has {ok} OK images to train on and needs at least {MIN_TRAIN_OK}; add OK images "
                    "to its train split and pack it again"
                )
    return found


def matching_lines(lines: Store, patterns: Sequence[str]) -> list[str]:
    """Names of packed lines that match any of `patterns`. Raises InputError when one matches none."""
    packed, found = packed_lines(lines), []
    for pattern in patterns:
        names = fnmatch.filter(packed, pattern)
        if not names:
            raise InputError(f"{pattern!r} is not packed in {lines.uri()}; {did_you_mean(pattern, packed)}")
        found += names
    return sorted(set(found))


def packed_lines(lines: Store) -> list[str]:
    """Names of the lines whose manifest stands in `lines`, sorted."""
    suffix = "/manifest.json"
    return [item.key.removesuffix(suffix) for item in lines.list() if item.key.endswith(suffix)]


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


def _squashed(unit: Unit, experiment: Experiment, specs: Sequence[tuple[ModelChoice, ModelSpec]]) -> Unit | None:
    """The same unit on squashed images, for a line that is not square; of the first seed only."""
    here = unit.input
    if not experiment.squashed_twins or unit.seed != experiment.seeds[0] or here.mode == "squash":
        return None
    if is_square(here.source_height, here.source_width):
        return None
    choice, spec = next(pair for pair in specs if pair[0].shown == unit.model)
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
