"""Expand an experiment into its units, and report every fault of models and lines before a GPU second is spent."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raybench.config.draft import Draft, parse_draft, read_text
from raybench.config.experiment import (
    Experiment,
    InputChoice,
    ModelChoice,
    parse_experiment,
    split_line,
)
from raybench.config.together import idle_groups, units_together
from raybench.config.unit import TrainingLine, Unit
from raybench.data.catalog import find_lines
from raybench.data.geometry import Input, is_square, plan_fit, plan_tiles
from raybench.data.line import Line
from raybench.data.manifest import Manifest, read_manifest, read_state
from raybench.detectors import registry, weights
from raybench.detectors.protocol import ModelSpec
from raybench.errors import ExperimentError, InputError, LineError, ModelError, StoreError, did_you_mean
from raybench.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

MIN_TRAIN_OK = 4


@dataclass(frozen=True)
class Plan:
    """An experiment with the units that it consists of and the stores that they need."""

    experiment: Experiment
    """The experiment."""
    store: Store
    """The experiment's store, which also holds the run."""
    manifests: Mapping[str, Manifest]
    """Manifests of the lines, by name."""
    units: tuple[Unit, ...]
    """Units in the order in which they start: by model as listed in the experiment, then by line, then those that are
    trained on several lines together, then the additional units on squashed images."""
    weights: Store | None = None
    """The weights store. None if neither the experiment nor the environment names one."""
    squashed: Mapping[str, str] = field(default_factory=dict)
    """By unit_id of a unit that keeps the aspect ratio, the unit_id of the same unit on squashed images."""
    asides: frozenset[str] = frozenset()
    """unit_ids of the additional units, which only serve the non-square column of the board."""
    elsewhere: Mapping[str, Store] = field(default_factory=dict)
    """Stores of the lines that are not in `store`, by line."""
    states: Mapping[str, str] = field(default_factory=dict)
    """First digits of the digest of lines that are taken in a named state, by line."""

    def lines_of(self, line: str) -> Store:
        """Return the store of lines that holds `line`."""
        return self.elsewhere.get(line) or self.store.sub("lines")

    def entry_of(self, line: str) -> str:
        """Return the entry of `lines` in an experiment that names one line alone."""
        entry = self.elsewhere[line].uri(line) if line in self.elsewhere else line
        return f"{entry}@{self.states[line]}" if line in self.states else entry

    def is_writable(self, line: str) -> bool:
        """Return whether sidecar files may be written beside a line: it is in the run's store, as it is now."""
        return line not in self.elsewhere and line not in self.states

    def line(self, name: str) -> Line:
        """Return a line of the plan."""
        return Line(self.lines_of(name), self.manifests[name], self.is_writable(name))

    def with_retry_timeout(self, seconds: float) -> Plan:
        """Return a copy whose stores retry requests to a failing server for this many seconds."""
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

    def to_frame(self) -> pd.DataFrame:
        """Return the units as a table, one row per unit in the plan's order.

        Returns:
            Index: line, model, seed. Columns: unit_id, detector, input_mode, input_height, input_width (pixels),
            train_ok and scored (numbers of images; see `PlannedUnit`).
        """
        import pandas as pd  # takes half a second, and only notebooks need it

        rows = [
            {
                "unit_id": unit.unit_id,
                "line": unit.line,
                "model": unit.model,
                "detector": unit.detector,
                "seed": unit.seed,
                "input_mode": unit.input.mode,
                "input_height": unit.input.height,
                "input_width": unit.input.width,
                "train_ok": unit.train_ok,
                "scored": unit.scored,
            }
            for unit in planned_units(self)
        ]
        return pd.DataFrame(rows).set_index(["line", "model", "seed"])


@dataclass(frozen=True)
class PlannedUnit:
    """A unit before it starts."""

    unit_id: str
    """Identity of the unit."""
    line: str
    """Name of the line."""
    model: str
    """Label on the board."""
    detector: str
    """Registered name of the detector behind the label."""
    seed: int
    """Seed of all randomness in training."""
    input: Input
    """Size of the network's input and how images are resized for it."""
    train_ok: int
    """Number of OK images to train on and to hold back."""
    scored: int
    """Number of images to score."""
    together: tuple[str, ...] = ()
    """Lines that its detector is trained on together. Empty if it is trained on its own line alone."""


def planned_units(plan: Plan) -> list[PlannedUnit]:
    """Describe the units of `plan`, in its order."""
    return [
        PlannedUnit(
            unit_id=unit.unit_id,
            line=unit.line,
            model=unit.model,
            detector=unit.detector,
            seed=unit.seed,
            input=unit.input,
            train_ok=train_images(unit, plan.manifests),
            scored=plan.manifests[unit.line].scored_images,
            together=tuple(each.line for each in unit.together),
        )
        for unit in plan.units
    ]


def train_images(unit: Unit, manifests: Mapping[str, Manifest]) -> int:
    """Return the number of OK images to train a unit's detector on and to hold back, of all lines that it is trained
    on."""
    lines = unit.together or (TrainingLine(unit.line, unit.training_digest, unit.protocol),)
    return sum(each.protocol.of_train(manifests[each.line].train_ok) for each in lines)


def open_experiment_store(experiment: Experiment) -> Store:
    """Open the store of an experiment."""
    return open_store(experiment.store, **experiment.storage.model_dump())


def experiment_of(name: str) -> Experiment:
    """Read the experiment of a run from its file or from the run's URI `<store>/runs/<run>`.

    Raises ExperimentError, InputError, or the store's own errors.
    """
    return _where_it_lies(name, parse_experiment(*_text_of(name)))


def plan_of(name: str) -> Plan:
    """Read the experiment of a run, see `experiment_of`, and expand it into units, see `make_plan`.

    Raises:
        ExperimentError: Names every fault of keys, models and lines.
        InputError: Nothing is stored there. The store's own errors are raised as well.
    """
    draft = parse_draft(Experiment, *_text_of(name))
    if draft.problems:
        raise ExperimentError(name, [*draft.problems, *_faults_of_the_rest(draft)])
    return make_plan(_where_it_lies(name, draft.experiment), name)


def _text_of(name: str) -> tuple[str, str]:
    """Read an experiment's YAML; return it with its name in messages."""
    root, runs, run = name.rstrip("/").rpartition("/runs/")
    if Path(name).is_file() or not runs:
        return read_text(Path(name)), name
    where = f"{name}/experiment.yaml"
    try:
        return open_store(root).get(f"runs/{run}/experiment.yaml").decode(), where
    except UnicodeDecodeError as error:
        raise ExperimentError(where, [f"cannot be read as UTF-8 text: {error}"]) from error


def _where_it_lies(name: str, experiment: Experiment) -> Experiment:
    """Return the experiment of a stored run with the store that holds the run now; it may have been copied or moved."""
    root, runs, _ = name.rstrip("/").rpartition("/runs/")
    if Path(name).is_file() or not runs:
        return experiment
    store = open_store(root).uri()
    return experiment if store == open_store(experiment.store).uri() else experiment.model_copy(update={"store": store})


def _faults_of_the_rest(draft: Draft[Experiment]) -> list[str]:
    """Check the models and lines of a draft, so far as they do not depend on what is left out."""
    problems: list[str] = []
    experiment, left_out = draft.experiment, draft.left_out
    try:
        if "models" not in left_out and left_out & {"preset", "weights", "storage"}:
            problems += _unknown_models(experiment)
        elif "models" not in left_out:
            _specs(experiment, open_weights_store(experiment), problems)
        if not left_out & {"lines", "store", "storage"}:
            found = find_lines(_line_patterns(experiment, open_experiment_store(experiment)), problems)
            _manifests(found, _states(experiment, problems), problems)
            problems += _idle_overrides(experiment, list(found), draft.whole_overrides)
            if not draft.is_missing_lines:
                problems += idle_groups(experiment, list(found))
    except (InputError, StoreError) as error:
        problems.append(str(error))
    return problems


def make_plan(experiment: Experiment, where: str = "experiment") -> Plan:
    """Expand an experiment into units. This reads the store and writes nothing.

    Args:
        experiment: The experiment.
        where: Name of the experiment in messages, such as its file.

    Raises:
        ExperimentError: Names every fault of models and lines.
        StoreError: The store fails.
    """
    store = open_experiment_store(experiment)
    problems: list[str] = []
    weights_store = open_weights_store(experiment)
    experiment = _with_choices_of_store(experiment, weights_store)
    specs = _specs(experiment, weights_store, problems)
    try:
        stores = find_lines(_line_patterns(experiment, store), problems)
        states = _states(experiment, problems)
        manifests = _manifests(stores, states, problems)
    except StoreError as error:
        if not problems:
            raise
        raise ExperimentError(where, [*problems, str(error)]) from error
    problems += _idle_overrides(experiment, list(manifests), experiment.overrides)
    problems += idle_groups(experiment, list(manifests))
    if problems:
        raise ExperimentError(where, problems)
    by_line = {line: experiment.on(line) for line in manifests}
    if experiment.race and all(len(of_line.seeds) == 1 for of_line in by_line.values()):
        problems.append("race: no model has a further seed that could be left out; set `seeds: [0, 1, 2]`, for example")
    alone = tuple(
        _unit(by_line[line], manifest, choice, spec, seed)
        for label, spec in specs.items()
        for line, manifest in manifests.items()
        for choice in by_line[line].models
        if choice.shown == label
        for seed in by_line[line].seeds
    )

    def unit_of(line: str, choice: ModelChoice, seed: int) -> Unit:
        return _unit(by_line[line], manifests[line], choice, specs[choice.shown], seed)

    together = units_together(experiment, by_line, manifests, unit_of, problems)
    if problems:
        raise ExperimentError(where, problems)
    units = (*alone, *together)
    baselines = {
        unit.unit_id: baseline
        for unit in alone
        if (baseline := _squash_baseline(unit, by_line[unit.line], specs[unit.model]))
    }
    listed = {unit.unit_id for unit in units}
    extra = tuple(baseline for baseline in baselines.values() if baseline.unit_id not in listed)
    return Plan(
        experiment=experiment,
        store=store,
        manifests=manifests,
        units=(*units, *extra),
        weights=weights_store,
        squashed={unit_id: baseline.unit_id for unit_id, baseline in baselines.items()},
        asides=frozenset(baseline.unit_id for baseline in extra),
        elsewhere={line: lines for line, lines in stores.items() if lines.uri() != store.uri("lines")},
        states=states,
    )


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
    """Open the weights store that the experiment or $RAYBENCH_WEIGHTS names; return None if neither does."""
    uri = experiment.weights or os.environ.get("RAYBENCH_WEIGHTS", "")
    return open_store(uri, **experiment.storage.model_dump()) if uri else None


def _with_choices_of_store(experiment: Experiment, weights_store: Store | None) -> Experiment:
    """Write the settings that depend on the weights store into the models' configs.

    The plan's experiment, which is kept with the run, then says what was trained, whatever the store holds later.
    """
    try:
        in_store = weights.stored(weights_store) if weights_store else {}
    except ModelError:  # told with the models that need weights
        in_store = {}

    labels = {model.shown for model in experiment.models}

    def filled(models: Sequence[ModelChoice], labels: Container[str] = ()) -> tuple[ModelChoice, ...]:
        """Fill the configs of all models but bare names in `labels`, which stand for models of the experiment."""
        return tuple(
            model
            if model == ModelChoice(name=model.name) and model.name in labels
            else model.model_copy(update={"config": {**registry.chosen_by_store(model.name, in_store), **model.config}})
            for model in models
        )

    overrides = {
        pattern: override.model_copy(update={"models": filled(override.models, labels)})
        if "models" in override.model_fields_set
        else override
        for pattern, override in experiment.overrides.items()
    }
    models = filled(experiment.models)
    if (models, overrides) == (experiment.models, experiment.overrides):
        return experiment
    return experiment.model_copy(update={"models": models, "overrides": overrides})


def _specs(experiment: Experiment, weights_store: Store | None, problems: list[str]) -> dict[str, ModelSpec]:
    """By label."""
    specs = {}
    for choice in experiment.all_models:
        try:
            spec = registry.resolve(choice.name, choice.config, experiment.preset)
            specs[choice.shown] = replace(spec, weights=weights.resolve(spec.weights, weights_store))
        except ExperimentError as error:
            problems.extend(f"models: {choice.shown}: {text}" for text in error.problems)
        except (InputError, ModelError) as error:
            problems.append(f"models: {choice.shown}: {error}")
    return specs


def _unknown_models(experiment: Experiment) -> Iterator[str]:
    """Describe models that do not exist, whatever their settings, the preset and the weights."""
    for choice in experiment.all_models:
        try:
            registry.resolve(choice.name, {})
        except ExperimentError:
            continue  # it exists, and has settings that must be given
        except (InputError, ModelError) as error:
            yield f"models: {choice.shown}: {error}"


def _line_patterns(experiment: Experiment, store: Store) -> Iterator[tuple[Store, str]]:
    """Yield for each entry of `lines` the store of lines and the pattern over its names."""
    for entry in experiment.lines:
        folder, pattern, _ = split_line(entry)
        yield open_store(folder, **experiment.storage.model_dump()) if folder else store.sub("lines"), pattern


def _states(experiment: Experiment, problems: list[str]) -> dict[str, str]:
    """Return the states that lines are asked for in, by line."""
    states: dict[str, str] = {}
    entries = [split_line(entry) for entry in experiment.lines]
    for _, line, state in entries:
        if not state:
            continue
        if sum(fnmatch.fnmatchcase(line, pattern) for _, pattern, _ in entries) > 1:
            problems.append(f"lines: {line!r} is asked for more than once; a run holds one state of a line")
        states[line] = state
    return states


def _manifests(stores: Mapping[str, Store], states: Mapping[str, str], problems: list[str]) -> dict[str, Manifest]:
    manifests = {}
    for line, lines in stores.items():
        try:
            manifests[line] = read_state(lines, line, states[line]) if line in states else read_manifest(lines, line)
        except LineError as error:
            problems.append(f"lines: {error}")
    for name, manifest in manifests.items():
        if (ok := manifest.train_ok) < MIN_TRAIN_OK:
            problems.append(
                f"lines: {name} has {ok} OK images to train on and needs at least {MIN_TRAIN_OK}; add OK images "
                "to its train split and pack it again"
            )
    return manifests


def _idle_overrides(experiment: Experiment, lines: Sequence[str], patterns: Container[str]) -> Iterator[str]:
    """Describe the overrides with these patterns that change nothing."""
    effective = {pattern for line in lines for pattern in experiment.overridden(line).values()}
    for pattern in filter(patterns.__contains__, experiment.overrides):
        if not fnmatch.filter(lines, pattern):
            yield f"overrides: {pattern!r} fits no line of the experiment; {did_you_mean(pattern, lines)}"
        elif pattern not in effective:
            yield f"overrides: {pattern!r} changes nothing: it is empty, or others that stand below it say otherwise"


def _unit(experiment: Experiment, manifest: Manifest, choice: ModelChoice, spec: ModelSpec, seed: int) -> Unit:
    config: dict[str, Any] = dict(spec.config)
    return Unit(
        line=manifest.line,
        line_digest=manifest.digest,
        training_digest=manifest.training_digest,
        model=choice.shown,
        detector=spec.name,
        config=config,
        weights=dict(spec.weights),
        input=_input(choice.input or experiment.input, manifest, spec),
        seed=seed,
        protocol=experiment.protocol,
        timed_on=experiment.timed_on,
        revision=experiment.revision,
    )


def _squash_baseline(unit: Unit, experiment: Experiment, spec: ModelSpec) -> Unit | None:
    """Return the same unit on squashed images, if its line is not square and its seed is the first.

    `experiment` has the overrides for the unit's line applied.
    """
    own = unit.input
    if not experiment.squashed_twins or unit.seed != experiment.seeds[0] or own.mode == "squash":
        return None
    if is_square(own.source_height, own.source_width):
        return None
    choice = next(choice for choice in experiment.models if choice.shown == unit.model)
    pixels = (choice.input or experiment.input).pixels
    fit = plan_fit("squash", own.source_height, own.source_width, pixels, stride=spec.stride, min_side=spec.min_side)
    size = Input(fit.mode, fit.height, fit.width, own.source_height, own.source_width)
    return replace(unit, model=f"{unit.model} (squashed)", input=size)


def _input(choice: InputChoice, manifest: Manifest, spec: ModelSpec) -> Input:
    height, width, tile = manifest.median_height, manifest.median_width, 0
    limits = {"stride": spec.stride, "min_side": spec.min_side}
    if choice.fit == "tile":
        fit, tile = plan_tiles(height, width, choice.pixels, choice.tiles, **limits)
    else:
        fit = plan_fit(choice.fit, height, width, choice.pixels, **limits)
    return Input(fit.mode, fit.height, fit.width, height, width, tile)
