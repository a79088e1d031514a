"""The experiment file: YAML ⇄ a frozen object, every fault named at once with its row and a remedy."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

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

from raybench.config.unit import Protocol
from raybench.config.yaml_rows import MAX_DEPTH, faults, row_of, twice
from raybench.errors import ExperimentError, InputError, did_you_mean
from raybench.store import open_store
from raybench.store.digest import digest

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Storage(_Section):
    """How to reach the store; never a secret. Empty: the standard chain's own choice."""

    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    ca_bundle: str = ""


class InputChoice(_Section):
    """fit: how images meet the network. pixels: the network's pixel budget (height × width). tiles: with fit `tile`,
    how many network inputs an image may be cut into, about."""

    fit: Literal["native", "letterbox", "squash", "tile"] = "native"
    pixels: int = Field(default=256 * 256, ge=32 * 32, le=4096 * 4096)
    tiles: int = Field(default=9, ge=1, le=1024)


class ModelChoice(_Section):
    """name: a detector of raybench's, `anomalib:Class` or `package.module:Class`. label: its name on the board.
    config: its own settings. input: in place of the experiment's."""

    name: str
    label: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    input: InputChoice | None = None

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
        return self.label or self.name


def split_line(entry: str) -> tuple[str, str]:
    """The URI of the folder of packed lines, empty for that of the experiment's own store, and a line's name or a
    pattern over names."""
    folder, _, name = entry.rpartition("/")
    return folder, name


def _line_entry(entry: str) -> str:
    folder, name = split_line(entry)
    if "://" not in entry:
        if folder:
            raise ValueError("a line's name has no `/`; elsewhere a line goes by URI: s3://bucket/bench/lines/NAME")
        return entry
    if not name or folder.endswith((":", "/")):
        raise ValueError("after its last `/` the URI must name a line, or have a pattern: s3://bucket/bench/lines/*")
    if any(letter in folder for letter in "*?["):
        raise ValueError("a pattern can stand after the last `/` only")
    try:
        open_store(folder)
    except InputError as error:
        raise ValueError(str(error)) from error
    return entry


def _long_form(models: Any) -> Any:
    if not isinstance(models, list | tuple):
        return models
    return [{"name": item} if isinstance(item, str) else item for item in models]


def _labels_differ(models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
    if found := twice(model.shown for model in models):
        raise ValueError(f"{', '.join(found)} stands there twice; give each its own label")
    return models


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if found := twice(values):
        raise ValueError(f"{', '.join(found)} stands there twice")
    return values


Lines = Annotated[tuple[Annotated[str, AfterValidator(_line_entry)], ...], Field(min_length=1), AfterValidator(_once)]
Models = Annotated[
    tuple[ModelChoice, ...], Field(min_length=1), BeforeValidator(_long_form), AfterValidator(_labels_differ)
]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1), AfterValidator(_once)]
FalseAlarmBudget = Annotated[float, Field(gt=0.0, lt=0.5)]
HeldOut = Annotated[float, Field(gt=0.0, le=0.5)]
TrainBudget = Annotated[float, Field(gt=0.0)] | None


class Override(_Section):
    """What stands in place of the experiment's own keys on some lines; only the keys that are given do. models: a bare
    name that is the label of a model of the experiment means that one. train_budget_s: null lifts the experiment's."""

    models: Models = ()
    seeds: Seeds = (0,)
    false_alarm_budget: FalseAlarmBudget = 0.05
    held_out: HeldOut = 0.2
    train_budget_s: TrainBudget = None
    squashed_twins: bool = True
    input: InputChoice = Field(default_factory=InputChoice)

    @model_serializer(mode="wrap")
    def _given(self, write: Callable[[Override], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}


class Resources(_Section):
    """What one task takes. cpus: cores. gpus: share of a GPU of a train or score task (0: CPU only; none: by the memory
    that tasks like it held, where the cluster has any). in_flight: tasks submitted ahead per slot. retries: of a task
    whose worker, node, store or disk failed. unit_timeout_s: what all tasks of a unit may take together; a unit that
    takes longer has failed.
    measure_s: what timing a unit's detector takes about, with the device to itself, warm-up aside. gpu_memory_mb: of
    the smallest GPU (10^6 bytes), where it is not to be found out. price_per_hour: money, in a currency of the user's,
    for an hour of one GPU with all that belongs to it; of one CPU core where no GPU is used."""

    cpus: int = Field(default=1, ge=1, le=256)
    gpus: float | None = Field(default=None, ge=0.0, le=1.0)
    in_flight: int = Field(default=2, ge=1, le=16)
    retries: int = Field(default=2, ge=0, le=100)
    unit_timeout_s: float | None = Field(default=None, gt=0.0)
    measure_s: float = Field(default=2.0, gt=0.0, le=600.0)
    gpu_memory_mb: float | None = Field(default=None, gt=0.0)
    price_per_hour: float | None = Field(default=None, ge=0.0)


class VerdictWeights(_Section):
    """What counts among models that tell NG from OK images equally well, from 0 up; only their ratios matter. See
    `analysis.criteria`."""

    recall: float = Field(default=0.4, ge=0.0, allow_inf_nan=False)
    heat_map: float = Field(default=0.3, ge=0.0, allow_inf_nan=False)
    speed: float = Field(default=0.15, ge=0.0, allow_inf_nan=False)
    size: float = Field(default=0.05, ge=0.0, allow_inf_nan=False)
    non_square: float = Field(default=0.1, ge=0.0, allow_inf_nan=False)


class Annotation(_Section):
    """budget: images of each line that the annotation queue picks; the other flags stand behind them. signals: how many
    of the first are told what kind of anomaly they look like; 0 saves the seconds that each line takes."""

    budget: int = Field(default=50, ge=1, le=1_000_000)
    signals: int = Field(default=50, ge=0, le=10_000)


class Experiment(_Section):
    """What to compare. `digest` identifies all that can change a number; `resources`, `storage`, `weights` and
    `annotation.signals` can't (a unit knows its weights by their sha256).

    lines: names or patterns over what is packed in `store`, and URIs of lines elsewhere. overrides: by line or pattern
    over lines; where several fit, a later one wins, key by key.
    inspect: look at the data of lines that nobody has inspected yet; what is bad about pictures makes flags.
    squashed_twins: on lines that are not square, also run each model on squashed images, for the non-square column.
    preset: the models' default settings, "paper" (a GPU) or "cpu" (minutes on two cores). weights: URI of the weights
    store (empty: $RAYBENCH_WEIGHTS, else none).
    """

    name: str = Field(pattern=NAME)
    store: str = Field(min_length=1)
    lines: Lines
    models: Models
    seeds: Seeds = (0,)
    false_alarm_budget: FalseAlarmBudget = 0.05
    held_out: HeldOut = 0.2
    train_budget_s: TrainBudget = None
    squashed_twins: bool = True
    inspect: bool = True
    preset: Literal["paper", "cpu"] = "paper"
    weights: str = ""
    verdict: VerdictWeights = Field(default_factory=VerdictWeights)
    annotation: Annotation = Field(default_factory=Annotation)
    input: InputChoice = Field(default_factory=InputChoice)
    resources: Resources = Field(default_factory=Resources)
    storage: Storage = Field(default_factory=Storage)
    overrides: Mapping[str, Override] = Field(default_factory=dict)

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
            raise _experiment_error(error, where, tree) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Experiment:
        """Read an experiment file.

        Raises:
            ExperimentError: It cannot be read, or has faults: all of them are named, with their rows.
        """
        return read_experiment(Path(path))

    def overridden(self, line: str) -> dict[str, str]:
        """By key that is not the experiment's own on `line`, the pattern whose override says so."""
        return {
            key: pattern
            for pattern, override in self.overrides.items()
            if fnmatch.fnmatchcase(line, pattern)
            for key in override.model_fields_set
        }

    def on(self, line: str) -> Experiment:
        """The experiment as it is for `line`."""
        given = {key: getattr(self.overrides[pattern], key) for key, pattern in self.overridden(line).items()}
        if "models" in given:
            given["models"] = _by_label(given["models"], {model.shown: model for model in self.all_models})
        return self.model_copy(update=given | {"overrides": {}})

    @property
    def all_models(self) -> tuple[ModelChoice, ...]:
        """One for each label: the experiment's own, then those that only overrides have."""
        found = {model.shown: model for model in self.models}
        for override in self.overrides.values():
            for model in override.models:
                found.setdefault(model.shown, model)
        return tuple(found.values())

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.held_out, self.false_alarm_budget, self.train_budget_s)

    @property
    def digest(self) -> str:
        said = self.model_dump(mode="json", exclude={"resources", "storage", "weights", "overrides", "inspect"})
        del said["annotation"]["signals"]
        if not self.inspect:  # said only then: runs under way were frozen without it
            said["inspect"] = False
        if self.overrides:  # their order counts
            said["overrides"] = [[pattern, one.model_dump(mode="json")] for pattern, one in self.overrides.items()]
        return digest(said)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _by_label(models: tuple[ModelChoice, ...], known: Mapping[str, ModelChoice]) -> tuple[ModelChoice, ...]:
    """`models`, with bare names that are labels of known ones as those."""
    return tuple(known.get(one.name, one) if one == ModelChoice(name=one.name) else one for one in models)


def read_experiment(path: Path) -> Experiment:
    """The experiment in the file `path`. Raises ExperimentError naming every fault and its row."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ExperimentError(str(path), ["there is no such file"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(str(path), [f"cannot be read as UTF-8 text: {error}"]) from error
    return parse_experiment(text, str(path))


def parse_experiment(text: str, where: str = "experiment") -> Experiment:
    """The experiment in YAML `text`. Raises ExperimentError naming every fault and its row."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        wrong = faults(tree)
        data = None if wrong else yaml.safe_load(text)
    except RecursionError as error:
        raise ExperimentError(where, [f"is nested more than {MAX_DEPTH} levels deep"]) from error
    except Exception as error:  # PyYAML meets a scalar that does not fit its tag with errors of many kinds
        raise ExperimentError(where, [f"is not valid YAML: {type(error).__name__}: {error}"]) from error
    if wrong:
        raise ExperimentError(where, wrong)
    if not isinstance(data, dict):
        raise ExperimentError(where, ["must be a YAML mapping; `raybench models` and the README show an example"])
    return Experiment.model_validate(data, context=(where, tree))


def _experiment_error(error: ValidationError, where: str, tree: yaml.Node | None) -> ExperimentError:
    found = error.errors()
    inside = {fault["loc"][:depth] for fault in found for depth in range(len(fault["loc"]))}
    # A list whose members are all bad is also reported as empty.
    told = [fault for fault in found if fault["type"] != "too_short" or fault["loc"] not in inside]
    return ExperimentError(where, [_sentence(fault, tree) for fault in told])


def _sentence(fault: Any, tree: yaml.Node | None) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    row = row_of(tree, fault["loc"])
    text = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        text = f"unknown key; {did_you_mean(str(fault['loc'][-1]), _keys(fault['loc'][:-1]))}"
    return f"{f'row {row}: ' if row else ''}{place}: {text}"


def _keys(loc: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Experiment
    children: dict[str, type[BaseModel]] = {
        "storage": Storage,
        "input": InputChoice,
        "models": ModelChoice,
        "overrides": Override,
        "resources": Resources,
        "verdict": VerdictWeights,
        "annotation": Annotation,
    }
    for before, part in zip(("", *loc), loc, strict=False):
        if before != "overrides":  # else `part` is a pattern
            section = children.get(str(part), section)
    return list(section.model_fields)
