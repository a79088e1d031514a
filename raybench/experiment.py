"""The experiment file: YAML ⇄ a frozen object, every fault named at once with its row and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raybench.errors import ExperimentError, did_you_mean
from raybench.units import Protocol, digest

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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

    @property
    def shown(self) -> str:
        return self.label or self.name


class Resources(_Section):
    """What one task takes. cpus: cores. gpus: share of a GPU of a train or score task (0: CPU only; none: a whole GPU
    where the cluster has any). in_flight: tasks submitted ahead per slot. retries: after a lost worker."""

    cpus: int = Field(default=1, ge=1, le=256)
    gpus: float | None = Field(default=None, ge=0.0, le=1.0)
    in_flight: int = Field(default=2, ge=1, le=16)
    retries: int = Field(default=2, ge=0, le=100)


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
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands there twice; give each its own label")
        return models

    @field_validator("lines", "seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
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
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ExperimentError(where, [f"is not valid YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise ExperimentError(where, ["must be a YAML mapping; `raybench models` and the README show an example"])
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        faults = error.errors()
        inside = {fault["loc"][:-1] for fault in faults}
        # A list whose members are all bad is also reported as empty.
        told = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in inside]
        raise ExperimentError(where, [_sentence(fault, tree) for fault in told]) from error


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
