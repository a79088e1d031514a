"""Faults of an experiment as sentences: what is wrong, in which row, and how to write it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from raybench.config.yaml_rows import row_of, text_of
from raybench.errors import ExperimentError, did_you_mean

_YAML_KINDS = {bool: "truth value", int: "number", float: "number", date: "date"}
_LIMITS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_KINDS_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "string_type": "text",
    **dict.fromkeys(("model_type", "dict_type", "mapping_type"), "a mapping, `key: value` for each of its keys"),
}


def experiment_error(
    error: ValidationError, where: str, tree: yaml.Node | None, experiment: type[BaseModel]
) -> ExperimentError:
    """List all faults that pydantic found, each with its row.

    Args:
        error: What pydantic says.
        where: Name of the experiment in messages.
        tree: The YAML that was read. None for an experiment that was made in Python.
        experiment: The schema.
    """
    faults = error.errors()
    parents = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    # pydantic also reports a list whose members are all invalid as empty
    faults = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in parents]
    return ExperimentError(where, [_sentence(fault, tree, experiment) for fault in faults])


def _sentence(fault: Any, tree: yaml.Node | None, experiment: type[BaseModel]) -> str:
    """Describe one of pydantic's errors, with its row and, for an unknown key, the closest key."""
    place = ".".join(str(part) for part in fault["loc"])
    row = row_of(tree, fault["loc"])
    written = text_of(tree, fault["loc"])
    match fault["type"]:
        case "extra_forbidden":
            text = f"unknown key; {did_you_mean(str(fault['loc'][-1]), _keys(_section(experiment, fault['loc'][:-1])))}"
        case "missing":
            text = f"is missing: {_description(experiment, fault['loc'])}"
        case "truth_value":
            text = _not_a_number(fault["input"], written)
        case "value_error":
            text = fault["msg"].removeprefix("Value error, ")
        case "string_type" if not isinstance(fault["input"], list | tuple | dict):
            text = _not_text(fault["input"], written)
        case "tuple_type":
            text = _not_a_list(fault["input"], written)
        case _:
            text = f"must {_wanted(fault)}, and is {_shown(fault['input'], written)}"
    return f"{f'row {row}: ' if row else ''}{place}: {text}"


def _wanted(fault: Any) -> str:
    """Say what one of pydantic's errors asks for, after "must"."""
    limits = fault.get("ctx", {})
    match fault["type"]:
        case "literal_error":
            return f"be {limits['expected']}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            ((limit, value),) = limits.items()
            return f"be {_LIMITS[limit]} {value}"
        case "too_short":
            return "have a member at least"
        case "string_too_short":
            return "not be empty"
        case "string_pattern_mismatch":
            return "begin with a letter or digit and have up to 100 letters, digits, and `.`, `_` or `-`"
    return f"be {_KINDS_WANTED[fault['type']]}" if fault["type"] in _KINDS_WANTED else f"be otherwise ({fault['msg']})"


def _shown(value: Any, written: str | None) -> str:
    """Show what was read in place of what is wanted."""
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "empty"
    if value is None or value == "":
        return "empty"
    return repr(value) if written is None else written


def _not_text(value: Any, written: str | None) -> str:
    """Say what YAML reads where text is wanted, and how to write it."""
    if written is None:  # made in Python
        return f"must be text, and is {value!r}"
    kind = "nothing" if value is None else f"a {_YAML_KINDS.get(type(value), type(value).__name__)}"
    read = kind if value is None or written == str(value) else f"{kind}, {value}"
    return f"`{written}` is read as {read}; as text it is in quotes: {json.dumps(written, ensure_ascii=False)}"


def _not_a_number(value: bool, written: str | None) -> str:
    if written is None:  # made in Python
        return f"must be a number, and is {value}"
    return f"must be a number, and `{written}` is read as a truth value, {value}; write it in digits"


def _not_a_list(value: Any, written: str | None) -> str:
    if isinstance(value, dict):
        return "must be a list, and is a mapping; write `- ` before each of its members"
    if value is None or value == "":
        return "must be a list, and is empty"
    shown = repr(value) if written is None else written
    return f"must be a list, and is {shown}; a list of one is [{shown}]"


def _description(experiment: type[BaseModel], loc: tuple[Any, ...]) -> str:
    """Return what the key at `loc` is, as its docstring says."""
    text = _section(experiment, loc[:-1]).model_fields[loc[-1]].description or ""
    return text.partition(". ")[0].replace("\n", " ").rstrip(".")


def _keys(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section as a file has them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _section(experiment: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    """Return the section at `loc`."""
    section = experiment
    parts = iter(loc)
    for part in parts:
        if isinstance(part, int):  # a position in a list of sections
            continue
        annotation = section.model_fields[part].annotation
        section = next(_sections_in(annotation))
        if get_origin(annotation) is Mapping:
            next(parts, None)  # skip the key of the mapping: a pattern over lines
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
