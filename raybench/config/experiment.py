"""The experiment: a frozen object with the keys of its file.

The docstrings of the sections and of their fields are the descriptions in `Experiment.model_json_schema()`.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from raybench.config.draft import parse_draft, read_text
from raybench.config.faults import experiment_error
from raybench.config.unit import Protocol
from raybench.config.yaml_rows import duplicates
from raybench.errors import ExperimentError, InputError, did_you_mean
from raybench.metrics.sampling import LEAST_SAMPLE
from raybench.store import digest, open_store

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
LEAST_TRAIN_IMAGES = 4
"""Lowest number of OK images that `train_images` may ask for."""


def _not_a_truth_value(value: Any) -> Any:
    """Refuse what pydantic takes as 0 or 1 where a number is wanted."""
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "must be a number")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[info.field_name or ""].annotation
        is_number = any(kind in (int, float) for kind in (wanted, *get_args(wanted)))
        return _not_a_truth_value(value) if is_number else value


class Storage(_Section):
    """How to reach an S3 store. It never holds a secret. Empty fields follow the standard AWS configuration."""

    endpoint_url: str = ""
    """URL of the S3 endpoint."""
    region: str = ""
    """Region of the bucket."""
    profile: str = ""
    """Profile in the AWS configuration files."""
    ca_bundle: str = ""
    """File of CA certificates to verify the endpoint with."""
    tags: bool = False
    """Whether the bytes of units get a tag `raybench` with their kind, for lifecycle rules: `scores` (the heat maps),
    `model`, `partial`, `traits`, `images` or `held-out`."""


class InputChoice(_Section):
    """How images are resized for the network."""

    fit: Literal["native", "letterbox", "squash", "tile"] = "native"
    """`native` keeps the aspect ratio of the images, `letterbox` pads images to a square, `squash` stretches them to a
    square, and `tile` keeps the aspect ratio and cuts large images into square tiles."""
    pixels: int = Field(default=256 * 256, ge=32 * 32, le=4096 * 4096)
    """Pixel budget of the network's input: height × width."""
    tiles: int = Field(default=9, ge=1, le=1024)
    """Approximate maximum number of network inputs per image with fit `tile`."""


class ModelChoice(_Section):
    """A model to compare. A bare name in the list of models is short for this section with only `name`."""

    name: str
    """A built-in model, `anomalib:Class`, or your own class as `package.module:Class`."""
    label: str = Field(default="", pattern=f"^$|{NAME}")
    """Name on the board and in file names. Empty for the model's name. Required if a model is listed more than once."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model; the others keep the defaults of the preset."""
    input: InputChoice | None = None
    """Replaces the experiment's `input` for this model."""

    @field_validator("config")
    @classmethod
    def _plain(cls, config: dict[str, Any]) -> dict[str, Any]:
        wanted = "takes text, finite numbers, true and false, lists, and mappings of text to these"
        try:
            same = json.loads(json.dumps(config, allow_nan=False)) == config
        except (TypeError, ValueError) as error:
            raise ValueError(f"{wanted}: {error}") from error
        if not same:
            raise ValueError(wanted)
        return config

    @property
    def shown(self) -> str:
        """Name on the board."""
        return self.label or self.name


def split_line(entry: str) -> tuple[str, str, str]:
    """Split an entry of `lines` into the URI of the folder of packed lines, a name or pattern, and a state.

    The URI is empty for lines in the experiment's own store, the state where lines are taken as they are.
    """
    folder, _, last = entry.rpartition("/")
    name, _, state = last.partition("@")
    return folder, name, state


_STATE = re.compile(r"[0-9a-f]{4,64}")


def _line_entry(entry: str) -> str:
    folder, name, state = split_line(entry)
    if "://" not in entry and folder:
        raise ValueError("a line's name has no `/`; elsewhere a line goes by URI: s3://bucket/bench/lines/NAME")
    if "://" in entry:
        if not name or folder.endswith((":", "/")):
            raise ValueError(
                "after its last `/` the URI must name a line, or have a pattern: s3://bucket/bench/lines/*"
            )
        if any(letter in folder for letter in "*?["):
            raise ValueError("a pattern can stand after the last `/` only")
        try:
            open_store(folder)
        except InputError as error:
            raise ValueError(str(error)) from error
    if entry.endswith(f"{name}@{state}") and (any(letter in name for letter in "*?[") or not _STATE.fullmatch(state)):
        raise ValueError(
            "an earlier state of a line goes by 4 or more hexadecimal digits of its digest, which `raybench labels "
            "log` shows: bottle@3f2a81c0"
        )
    return entry


def _long_form(models: Any) -> Any:
    if not isinstance(models, list | tuple):
        return models
    return [{"name": item} if isinstance(item, str) else item for item in models]


def _labels_differ(models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
    if repeated := duplicates(model.shown for model in models):
        raise ValueError(f"{', '.join(repeated)} is duplicated; give each its own label")
    return models


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if repeated := duplicates(values):
        raise ValueError(f"{', '.join(repeated)} is duplicated")
    return values


Lines = Annotated[tuple[Annotated[str, AfterValidator(_line_entry)], ...], Field(min_length=1), AfterValidator(_once)]
Models = Annotated[
    tuple[ModelChoice, ...], Field(min_length=1), BeforeValidator(_long_form), AfterValidator(_labels_differ)
]
Seed = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_not_a_truth_value)]
# In order, because the first seed of a model is the one that is shown and delivered.
Seeds = Annotated[
    tuple[Seed, ...], Field(min_length=1), AfterValidator(_once), AfterValidator(lambda seeds: tuple(sorted(seeds)))
]
FalseAlarmBudget = Annotated[float, Field(gt=0.0, lt=0.5)]
HeldOut = Annotated[float, Field(gt=0.0, le=0.5)]
TrainBudget = Annotated[float | None, Field(gt=0.0)]


class ThresholdChoice(_Section):
    """Where thresholds come from, and where they have been moved to. Nothing is trained or scored again for it."""

    model_config = ConfigDict(serialize_by_alias=True)

    source: Literal["held_out", "test_ok"] = Field(default="held_out", alias="from")
    """`held_out` sets thresholds on OK training images that are held back. `test_ok` sets them on the OK images of the
    test split, for lines that have changed since; the false-alarm rate is then cross-fitted."""
    promised: float | None = Field(default=None, gt=0.0, le=0.5)
    """False-alarm rate to promise in place of `false_alarm_budget`."""
    excess: float | None = Field(default=None, gt=-1.0, le=10.0)
    """Moves the threshold to this excess: below 0 towards a typical OK image, 1 twice as far from it. Such a threshold
    promises nothing."""
    recall: float | None = Field(default=None, gt=0.0, le=1.0)
    """Moves the threshold to where this share of the NG test images is above it. Such a threshold promises nothing, and
    looks better on these images than it will be on others."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [name for name in ("promised", "excess", "recall") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} move the threshold; give one of them")
        if self.source == "test_ok" and given not in ([], ["promised"]):
            raise ValueError(f"{given[0]} moves thresholds that held-back images set, not `test_ok`")
        return self

    @property
    def promises_nothing(self) -> bool:
        """Whether a person has moved the threshold from where held-back or test images set it."""
        return self.excess is not None or self.recall is not None

    def __str__(self) -> str:
        if self.excess is not None:
            return f"moved to an excess of {self.excess:g}"
        if self.recall is not None:
            return f"moved to a recall of {self.recall:.0%}"
        rate = "" if self.promised is None else f" for a false-alarm rate of {self.promised:g}"
        return ("set on OK test images" if self.source == "test_ok" else "set on held-back images") + rate


class Override(_Section):
    """Keys that replace the experiment's own on some lines. Only the keys that are given replace anything."""

    models: Models = ()
    """Models to run on these lines. A bare name that is a label of the experiment stands for that model."""
    seeds: Seeds = (0,)
    """Seeds to train each model with."""
    false_alarm_budget: FalseAlarmBudget = 0.05
    """False-alarm rate on OK images that the threshold may cause."""
    held_out: HeldOut = 0.2
    """Share of the OK training images to hold back for the threshold."""
    train_budget_s: TrainBudget = None
    """Time limit of the optimiser steps of one training, in seconds. null removes the experiment's limit."""
    threshold: ThresholdChoice = Field(default_factory=ThresholdChoice)
    """Images that thresholds are set on, and where they have been moved to."""
    squashed_twins: bool = True
    """On lines with images that are not square, also run each model on squashed images."""
    input: InputChoice = Field(default_factory=InputChoice)
    """Input size of the models, and how images are resized to it."""

    @model_serializer(mode="wrap")
    def _given(self, write: Callable[[Override], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}

    def identity(self) -> dict[str, Any]:
        """Return the keys that are given, as JSON: null for one whose value is the default of its section."""
        return dict.fromkeys(self.model_fields_set) | self.model_dump(mode="json", exclude_defaults=True)


Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)]


class Together(_Section):
    """Lines that some models are trained on together, as one detector for all of them, beside one for each line."""

    lines: Names
    """Names of lines of the experiment, and patterns over them. At least two lines must match."""
    models: Names
    """Labels of models of the experiment. Each is a model of its own on the board: `padim@GROUP`."""


class Resources(_Section):
    """Resources of one task, limits of time, and the price of an hour."""

    cpus: int = Field(default=1, ge=1, le=256)
    """CPU cores per task."""
    gpus: float | None = Field(default=None, ge=0.0, le=1.0)
    """GPUs per train or score task. 0 runs on the CPU. If unset, chosen from the GPU memory that similar tasks used, if
    the cluster has GPUs."""
    in_flight: int = Field(default=2, ge=1, le=16)
    """Tasks submitted ahead per slot."""
    retries: int = Field(default=2, ge=0, le=100)
    """How often a task is retried after its worker, node, store or disk failed."""
    attempts: int = Field(default=10, ge=1, le=1_000_000)
    """How many commands try a unit that fails. `raybench run --retry-failed` tries it once more."""
    unit_timeout_s: float | None = Field(default=None, gt=0.0)
    """Time limit in seconds of all tasks of a unit together. A unit that takes longer has failed."""
    measure_s: float = Field(default=2.0, gt=0.0, le=600.0)
    """Approximate time in seconds to measure the speed of a unit's detector, which has the device to itself. The
    warm-up is not included."""
    gpu_memory_mb: float | None = Field(default=None, gt=0.0)
    """Memory of the smallest GPU in 10^6 bytes, for clusters on which it cannot be determined."""
    price_per_hour: float | None = Field(default=None, ge=0.0)
    """Price of an hour of one GPU with everything that belongs to it, or of one CPU core if no GPU is used, in any
    currency."""


class VerdictSettings(_Section):
    """What counts in the verdict, converted to image AUROC. See `analysis.utility`."""

    margin: float = Field(default=0.02, ge=0.0, le=0.5)
    """Difference in utility that does not matter: models that are at most this far behind are as good."""
    good_enough: float = Field(default=0.8, ge=0.5, le=1.0)
    """Least image AUROC of a model that is worth running."""
    recall: float = Field(default=0.05, ge=0.0)
    """Image AUROC that a recall of 1 at the false-alarm budget is worth."""
    heat_map: float = Field(default=0.1, ge=0.0)
    """Image AUROC that perfect heat maps are worth."""
    ms: float = Field(default=1e-4, ge=0.0)
    """Image AUROC that a millisecond per image costs."""
    mb: float = Field(default=1e-5, ge=0.0)
    """Image AUROC that 10^6 bytes of the saved detector cost."""


class Costs(_Section):
    """Costs in one currency. If they are given, the verdict is about expected cost per image instead of image AUROC."""

    missed_defect: float = Field(gt=0.0)
    """Cost of an NG image that is not flagged."""
    false_alarm: float = Field(ge=0.0)
    """Cost of an OK image that is flagged."""
    defect_rate: float = Field(gt=0.0, lt=1.0)
    """Share of NG images in production."""
    ms: float = Field(default=0.0, ge=0.0)
    """Cost of a millisecond per image."""

    @property
    def alarms_per_defect(self) -> float:
        """Cost of raising a false alarm on every OK image, in units of the cost of missing every defect."""
        return (1 - self.defect_rate) * self.false_alarm / (self.defect_rate * self.missed_defect)


class Limits(_Section):
    """Hard limits of the models, and of what one command spends.

    A model that breaks a limit is not admissible, however good it is. A unit that would break a limit of spending does
    not begin.
    """

    p95_ms: float | None = Field(default=None, gt=0.0)
    """Largest 95th percentile of the time per image, in milliseconds."""
    mb: float | None = Field(default=None, gt=0.0)
    """Largest saved detector, in 10^6 bytes."""
    false_alarm_rate: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Largest false-alarm rate on OK test images. It is broken if the whole 95 % interval lies above it."""
    licence: Literal["permissive"] | None = None
    """`permissive` allows only models whose code and weights have licences such as Apache-2.0, BSD or MIT."""
    budget: float | None = Field(default=None, gt=0.0)
    """Most that the tasks of one `raybench run` may cost, at `resources.price_per_hour`."""
    gpu_hours: float | None = Field(default=None, gt=0.0)
    """Most GPU-hours that the tasks of one `raybench run` may take."""

    @property
    def has_budget(self) -> bool:
        """Whether spending is limited."""
        return self.budget is not None or self.gpu_hours is not None


class Annotation(_Section):
    """The annotation queue."""

    budget: int = Field(default=50, ge=1, le=1_000_000)
    """Images per line to select for annotation. The other flagged images follow them."""
    random_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the budget that goes to unlabelled images picked at random, five at least; 0 picks none. Only these, and
    images labelled from the start, say how often a model is wrong; the others are picked because models find them
    suspicious."""
    signals: int = Field(default=50, ge=0, le=10_000)
    """Images per line, from the start of the queue, whose type of anomaly is predicted. 0 saves the seconds that this
    takes for each line."""

    @property
    def random_checks(self) -> int:
        """Number of images to pick at random: enough to begin a sample."""
        return (
            min(self.budget, max(LEAST_SAMPLE, math.ceil(self.random_share * self.budget))) if self.random_share else 0
        )


class Experiment(_Section):
    """Which models to compare, on which lines and how."""

    name: str = Field(pattern=NAME)
    """Name of the run."""
    store: str = Field(min_length=1)
    """URI of the store, or a folder, that holds the packed lines and the run."""
    lines: Lines
    """Names of lines packed in `store`, patterns over them, and URIs of lines in other stores, such as
    `s3://bucket/bench/lines/*`."""
    models: Models
    """Models to compare, by name or with settings."""
    seeds: Seeds = (0,)
    """Seeds to train each model with."""
    false_alarm_budget: FalseAlarmBudget = 0.05
    """False-alarm rate on OK images that the threshold may cause."""
    held_out: HeldOut = 0.2
    """Share of the OK training images to hold back for the threshold."""
    train_images: int | None = Field(default=None, ge=LEAST_TRAIN_IMAGES)
    """Number of OK images to train on and to hold back, in whole groups, the same ones for every model and seed. A
    larger number adds to them. If unset, all of the line's."""
    train_budget_s: TrainBudget = None
    """Time limit of the optimiser steps of one training, in seconds. If unset, the model's own number of steps
    applies."""
    squashed_twins: bool = True
    """On lines with images that are not square, also run each model on squashed images, for the non-square column."""
    inspect: bool = True
    """Inspect the data of lines that have not been inspected yet. Images with faults are flagged."""
    preset: Literal["paper", "cpu"] = "paper"
    """Default settings of the models: `paper` for a GPU, `cpu` for minutes on two cores."""
    timed_on: str = Field(default="", pattern=rf"^$|{NAME}")
    """Name of the machine whose times count, such as that of the PC beside the line. Detectors are timed once for each
    name, and nothing is trained or scored again. If empty, whichever run of the store came first has timed them."""
    revision: str = ""
    """Any text. Another one computes everything anew, as may be wanted after an upgrade of torch or anomalib: results
    that a store has are kept otherwise."""
    weights: str = ""
    """URI of the weights store. If empty, $RAYBENCH_WEIGHTS; if that is unset too, none."""
    verdict: VerdictSettings = Field(default_factory=VerdictSettings)
    """Margin of the verdict, and what counts in it besides image AUROC."""
    threshold: ThresholdChoice = Field(default_factory=ThresholdChoice)
    """Images that thresholds are set on, and where they have been moved to."""
    race: float | None = Field(default=None, gt=0.0, lt=0.5)
    """Train further seeds only of models that may be the best: those for which the probability that no other model is
    better by more than the margin is at least this, by the seeds so far."""
    costs: Costs | None = None
    """Costs of missed defects, false alarms and time. If unset, `verdict` has the exchange rates."""
    limits: Limits = Field(default_factory=Limits)
    """Limits that a model must keep to be named."""
    annotation: Annotation = Field(default_factory=Annotation)
    """Length of the annotation queue, and anomaly types in it."""
    input: InputChoice = Field(default_factory=InputChoice)
    """Input size of the models, and how images are resized to it."""
    resources: Resources = Field(default_factory=Resources, validate_default=True)
    """CPUs, GPUs, time limits, retries and prices."""
    storage: Storage = Field(default_factory=Storage)
    """How to reach the stores."""
    overrides: Mapping[str, Override] = Field(default_factory=dict)
    """Keys that replace the experiment's own, by line or pattern over lines. If several patterns match a line, the last
    one wins, key by key."""

    together: Mapping[str, Together] = Field(default_factory=dict)
    """Groups of lines by a name of your choice, and the models to train once for a whole group."""

    @field_validator("resources")
    @classmethod
    def _budget_has_a_price(cls, resources: Resources, info: ValidationInfo) -> Resources:
        limits: Limits | None = info.data.get("limits")
        if limits and limits.budget is not None and not resources.price_per_hour:
            raise ValueError("limits.budget needs price_per_hour, the price of an hour of a GPU, or of a core")
        return resources

    @field_validator("overrides")
    @classmethod
    def _labels_agree(cls, overrides: Mapping[str, Override], info: ValidationInfo) -> Mapping[str, Override]:
        known: dict[str, ModelChoice] = {model.shown: model for model in info.data.get("models", ())}
        for pattern, override in overrides.items():
            for model in _by_label(override.models, known):
                first = known.setdefault(model.shown, model)
                if (first.name, first.config) != (model.name, model.config):
                    raise ValueError(f"{pattern}: {model.shown} stands for two models; give this one its own label")
        return overrides

    @field_validator("together")
    @classmethod
    def _labels_are_known(cls, together: Mapping[str, Together], info: ValidationInfo) -> Mapping[str, Together]:
        if {"models", "overrides"} <= info.data.keys():  # else they have faults of their own
            labels = [model.shown for model in _all_models(info.data["models"], info.data["overrides"])]
            unknown = [
                (group, label) for group, each in together.items() for label in each.models if label not in labels
            ]
            if texts := [
                f"{group}: {label!r} is no label of a model; {did_you_mean(label, labels)}" for group, label in unknown
            ]:
                raise ValueError("; ".join(texts))
        if bad := [group for group in together if not re.fullmatch(NAME, group)]:
            raise ValueError(f"{bad[0]!r} is no name: letters, digits, `.`, `_` and `-`, at most 100")
        return together

    @model_validator(mode="wrap")
    @classmethod
    def _named_faults(
        cls, data: Any, validate: ModelWrapValidatorHandler[Experiment], info: ValidationInfo
    ) -> Experiment:
        """Say of an experiment made in Python what is said of one in a file."""
        where, tree = info.context or ("experiment", None)
        try:
            return validate(data)
        except ValidationError as error:
            raise experiment_error(error, where, tree, cls) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read an experiment file.

        Raises:
            ExperimentError: It cannot be read, or has faults: all of them are named, with their rows.
        """
        return read_experiment(Path(path))

    def overridden(self, line: str) -> dict[str, str]:
        """Return the keys that are overridden on `line`, each with the pattern of the override that applies."""
        return {
            key: pattern
            for pattern, override in self.overrides.items()
            if fnmatch.fnmatchcase(line, pattern)
            for key in override.model_fields_set
        }

    def on(self, line: str) -> Experiment:
        """Return the experiment with the overrides for `line` applied."""
        given = {key: getattr(self.overrides[pattern], key) for key, pattern in self.overridden(line).items()}
        if "models" in given:
            given["models"] = _by_label(given["models"], {model.shown: model for model in self.all_models})
        return self.model_copy(update=given | {"overrides": {}})

    @property
    def all_models(self) -> tuple[ModelChoice, ...]:
        """One model per label: the experiment's own, then those that only occur in overrides."""
        return _all_models(self.models, self.overrides)

    @property
    def protocol(self) -> Protocol:
        """How units are trained and judged."""
        return Protocol(self.held_out, self.false_alarm_budget, self.train_budget_s, self.train_images)

    @property
    def digest(self) -> str:
        """Identity of everything that can change a number.

        `resources`, `storage`, `weights` and `annotation.signals` cannot: a unit knows its weights by their sha256.
        Keys with their defaults are no part of it, so that it stays the same when a version adds a key.
        """
        neutral = {
            "resources": Resources(),
            "storage": Storage(),
            "weights": "",
            "annotation": self.annotation.model_copy(update={"signals": Annotation().signals}),
            "overrides": {},
        }
        fields = self.model_copy(update=neutral).model_dump(mode="json", exclude_defaults=True)
        if self.overrides:  # as a list, because their order counts
            fields["overrides"] = [[pattern, override.identity()] for pattern, override in self.overrides.items()]
        return digest(fields)

    def to_yaml(self) -> str:
        """Write the experiment as YAML with all keys."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _all_models(models: tuple[ModelChoice, ...], overrides: Mapping[str, Override]) -> tuple[ModelChoice, ...]:
    """Return one model per label: those of the experiment, then those that only occur in overrides."""
    by_label = {model.shown: model for model in models}
    for override in overrides.values():
        for model in override.models:
            by_label.setdefault(model.shown, model)
    return tuple(by_label.values())


def _by_label(models: tuple[ModelChoice, ...], known: Mapping[str, ModelChoice]) -> tuple[ModelChoice, ...]:
    """Replace bare names that are labels of known models by these models."""
    return tuple(known.get(model.name, model) if model == ModelChoice(name=model.name) else model for model in models)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file. Raises ExperimentError, which names every fault and its row."""
    return parse_experiment(read_text(path), str(path))


def parse_experiment(text: str, where: str = "experiment") -> Experiment:
    """Parse the YAML `text` of an experiment; `where` names it in messages.

    Raises ExperimentError, which names every fault and its row.
    """
    draft = parse_draft(Experiment, text, where)
    if draft.problems:
        raise ExperimentError(where, draft.problems)
    return draft.experiment
