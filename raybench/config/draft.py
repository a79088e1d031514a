"""Read an experiment file, or what can be read of one that has faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raybench.config.yaml_rows import MAX_DEPTH, yaml_faults
from raybench.errors import ExperimentError

E = TypeVar("E", bound=BaseModel)
_MAX_PASSES = 9
_STAND_INS: Mapping[str, Any] = {"name": "experiment", "store": ".", "lines": ["*"], "models": ["padim"]}


def read_text(path: Path) -> str:
    """Read the text of an experiment file. Raises ExperimentError if that cannot be done."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ExperimentError(str(path), ["there is no such file"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(str(path), [f"cannot be read as UTF-8 text: {error}"]) from error


@dataclass(frozen=True)
class Draft(Generic[E]):
    """An experiment as far as it can be read."""

    experiment: E
    """The experiment without what has faults. Required keys that are left out have stand-ins."""
    problems: tuple[str, ...] = ()
    """All faults of keys, each with its row. Empty if nothing is left out."""
    left_out: frozenset[str] = frozenset()
    """Keys that are left out whole. Of `lines`, `models` and `overrides`, only what has faults is left out, if
    something remains."""
    whole_overrides: frozenset[str] = frozenset()
    """Overrides of which nothing is left out, by pattern. Empty if a line that they may be about is left out."""
    is_missing_lines: bool = False
    """Whether a line is left out."""


def parse_draft(schema: type[E], text: str, where: str = "experiment") -> Draft[E]:
    """Parse what can be read of an experiment.

    Args:
        schema: The class of experiments.
        text: YAML.
        where: Name of the experiment in messages.

    Raises:
        ExperimentError: It is no mapping in YAML.
    """
    data, tree = _load(text, where)
    kept, stand_ins, problems = data, dict[str, Any](), dict[str, None]()
    for _ in range(_MAX_PASSES):  # some faults, such as a label that is given twice, show only without the others
        try:
            experiment = schema.model_validate({**stand_ins, **kept}, context=(where, tree))
        except ExperimentError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            problems |= dict.fromkeys(error.problems)
            kept = _without_faults(kept, [fault["loc"] for fault in error.__cause__.errors()], "experiment")
            if "overrides" in kept:
                kept["overrides"] = _without_labels(kept["overrides"], _lost(data, kept, "models"))
            if _lost(data, kept, "models"):  # its labels may be theirs
                kept.pop("together", None)
            stand_ins = dict(_STAND_INS)
        else:
            left_out = frozenset({*data, *stand_ins} - set(kept))
            lost_lines = bool(_lost(data, kept, "lines"))
            overrides = {} if lost_lines else kept.get("overrides", {})
            whole = frozenset(key for key, override in overrides.items() if override == data["overrides"][key])
            return Draft(experiment, tuple(problems), left_out, whole, lost_lines)
    raise ExperimentError(where, tuple(problems))


def _without_faults(value: Any, locs: Sequence[tuple[Any, ...]], kind: str) -> Any:
    """Leave out what has faults: members of `lines` and `models`, keys of overrides, and other keys whole."""
    if kind in ("lines", "models") and isinstance(value, list):
        return _without_members(value, {loc[0] for loc in locs if loc})
    if kind not in ("experiment", "overrides", "override") or not isinstance(value, dict) or () in locs:
        return None
    kept = {}
    for key, part in value.items():
        faults = [loc[1:] for loc in locs if str(loc[0]) == str(key)]
        rest = _without_faults(part, faults, "override" if kind == "overrides" else key) if faults else part
        if rest or not faults:
            kept[key] = rest
    return kept if kept != value or kind == "experiment" else None


def _without_members(members: list[Any], positions: Set[int]) -> list[Any]:
    """Leave out the members at these positions, or if there are none, all but the first of each name."""
    if positions:
        return [member for position, member in enumerate(members) if position not in positions]
    first = {_name_of(member): member for member in reversed(members)}
    return list(first.values())[::-1] if len(first) < len(members) else []


def _name_of(member: Any) -> str:
    """Return a line's name, or a model's name on the board."""
    return str(member.get("label") or member.get("name") if isinstance(member, dict) else member)


def _lost(data: Mapping[Any, Any], kept: Mapping[Any, Any], key: str) -> list[Any]:
    """List the members that are left out, and in place of which no other of the same name is kept."""
    known = {_name_of(member) for member in kept.get(key, ())}
    members = data.get(key)
    return [member for member in members if _name_of(member) not in known] if isinstance(members, list) else [members]


def _without_labels(overrides: Mapping[Any, Any], lost: Sequence[Any]) -> dict[Any, Any]:
    """Leave out the models of overrides that may be labels of models that are lost."""
    texts = [str(text) for model in lost for text in (model.values() if isinstance(model, dict) else [model])]
    kept = {}
    for pattern, override in overrides.items():
        kept[pattern] = override
        if isinstance(override, dict) and isinstance(models := override.get("models"), list):
            rest = [model for model in models if _name_of(model) not in texts]
            others = {key: value for key, value in override.items() if key != "models"}
            kept[pattern] = others | ({"models": rest} if rest else {})
    return kept


def _load(text: str, where: str) -> tuple[dict[Any, Any], yaml.Node | None]:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = yaml_faults(tree)
        data = None if problems else yaml.safe_load(text)
    except RecursionError as error:
        raise ExperimentError(where, [f"is nested more than {MAX_DEPTH} levels deep"]) from error
    except Exception as error:  # PyYAML raises many types of errors for a scalar that does not fit its tag
        raise ExperimentError(where, [f"is not valid YAML: {type(error).__name__}: {error}"]) from error
    if problems:
        raise ExperimentError(where, problems)
    if not isinstance(data, dict):
        raise ExperimentError(where, ["must be a YAML mapping; `raybench models` and the README show an example"])
    return data, tree
