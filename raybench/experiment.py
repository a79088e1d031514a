"""The experiment file: YAML ⇄ a frozen object, every fault named at once with its row and a remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raybench.errors import ExperimentError, did_you_mean
from raybench.units import Protocol, digest

MAX_DEPTH, MAX_VALUES = 40, 100_000  # of an experiment file
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
    `findings.merits`."""

    recall: float = Field(default=0.4, ge=0.0, allow_inf_nan=False)
    heat_map: float = Field(default=0.3, ge=0.0, allow_inf_nan=False)
    speed: float = Field(default=0.15, ge=0.0, allow_inf_nan=False)
    size: float = Field(default=0.05, ge=0.0, allow_inf_nan=False)
    non_square: float = Field(default=0.1, ge=0.0, allow_inf_nan=False)


class Annotation(_Section):
    """budget: images of each line that the annotation queue picks; the other flags stand behind them."""

    budget: int = Field(default=50, ge=1, le=1_000_000)


class Experiment(_Section):
    """What to compare. `digest` identifies all that can change a number; `resources`, `storage` and `weights` can't
    (a unit knows its weights by their sha256).

    squashed_twins: on lines that are not square, also run each model on squashed images, for the non-square column.
    preset: the models' default settings, "paper" (a GPU) or "cpu" (minutes on two cores). weights: URI of the weights
    store (empty: $RAYBENCH_WEIGHTS, else none).
    """

    name: str = Field(pattern=NAME)
    store: str = Field(min_length=1)
    lines: tuple[str, ...] = Field(min_length=1)
    models: tuple[ModelChoice, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(0,), min_length=1)
    false_alarm_budget: float = Field(default=0.05, gt=0.0, lt=0.5)
    held_out: float = Field(default=0.2, gt=0.0, le=0.5)
    train_budget_s: float | None = Field(default=None, gt=0.0)
    squashed_twins: bool = True
    preset: Literal["paper", "cpu"] = "paper"
    weights: str = ""
    verdict: VerdictWeights = Field(default_factory=VerdictWeights)
    annotation: Annotation = Field(default_factory=Annotation)
    input: InputChoice = Field(default_factory=InputChoice)
    resources: Resources = Field(default_factory=Resources)
    storage: Storage = Field(default_factory=Storage)

    @field_validator("models", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @field_validator("models")
    @classmethod
    def _labels_differ(cls, models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
        shown = [model.shown for model in models]
        if twice := _twice(shown):
            raise ValueError(f"{', '.join(twice)} stands there twice; give each its own label")
        return models

    @field_validator("lines", "seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := _twice(values):
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return values

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.held_out, self.false_alarm_budget, self.train_budget_s)

    @property
    def digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"resources", "storage", "weights"}))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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
        faults = _faults(tree)
        data = None if faults else yaml.safe_load(text)
    except RecursionError as error:
        raise ExperimentError(where, [f"is nested more than {MAX_DEPTH} levels deep"]) from error
    except Exception as error:  # PyYAML meets a scalar that does not fit its tag with errors of many kinds
        raise ExperimentError(where, [f"is not valid YAML: {type(error).__name__}: {error}"]) from error
    if faults:
        raise ExperimentError(where, faults)
    if not isinstance(data, dict):
        raise ExperimentError(where, ["must be a YAML mapping; `raybench models` and the README show an example"])
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        inside = {fault["loc"][:depth] for fault in found for depth in range(len(fault["loc"]))}
        # A list whose members are all bad is also reported as empty.
        told = [fault for fault in found if fault["type"] != "too_short" or fault["loc"] not in inside]
        raise ExperimentError(where, [_sentence(fault, tree) for fault in told]) from error


def _faults(tree: yaml.Node | None) -> list[str]:
    """What YAML allows and no experiment means: a key twice, lone surrogates, nesting or aliases without end."""
    problems: list[str] = []
    waiting, seen = [(tree, 0)] if tree else [], 0
    while waiting:
        node, depth = waiting.pop()
        row, seen = node.start_mark.line + 1, seen + 1
        if depth > MAX_DEPTH or seen > MAX_VALUES:
            return [f"row {row}: more than {MAX_DEPTH} levels or {MAX_VALUES} values, aliases written out"]
        if isinstance(node, yaml.ScalarNode):
            if not _is_unicode(node.value):
                problems.append(f"row {row}: text that is not Unicode (a lone surrogate)")
            continue
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and _is_unicode(key.value)]
            problems += [f"row {row}: {key} stands there twice" for key in _twice(keys)]
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        else:
            waiting += [(part, depth + 1) for part in node.value]
    return list(dict.fromkeys(problems))


def _twice(values: Iterable[Any]) -> list[str]:
    return sorted(str(value) for value, count in Counter(values).items() if count > 1)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _sentence(fault: Any, tree: yaml.Node | None) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    row = _row(tree, fault["loc"])
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
        "resources": Resources,
        "verdict": VerdictWeights,
        "annotation": Annotation,
    }
    for part in loc:
        section = children.get(str(part), section)
    return list(section.model_fields)


def _row(node: yaml.Node | None, loc: tuple[Any, ...]) -> int | None:
    row = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return row
            row, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            row = node.start_mark.line + 1
    return row
