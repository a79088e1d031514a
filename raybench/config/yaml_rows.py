"""Find constructs that YAML allows but no experiment uses, and the rows of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml

MAX_DEPTH, MAX_VALUES = 40, 100_000


def yaml_faults(tree: yaml.Node | None) -> list[str]:
    """Describe duplicated keys, lone surrogates, and nesting or aliases beyond MAX_DEPTH and MAX_VALUES."""
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
            problems += [f"row {row}: {key} is duplicated" for key in duplicates(keys)]
            waiting += [(part, depth + 1) for pair in node.value for part in pair]
        else:
            waiting += [(part, depth + 1) for part in node.value]
    return list(dict.fromkeys(problems))


def duplicates(values: Iterable[Any]) -> list[str]:
    """Return the values that occur more than once, sorted."""
    return sorted(str(value) for value, count in Counter(values).items() if count > 1)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def row_of(node: yaml.Node | None, loc: tuple[Any, ...]) -> int | None:
    """Return the row, from 1, of the value at `loc` (keys and positions in lists), or of its last part that exists."""
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


def text_of(node: yaml.Node | None, loc: tuple[Any, ...]) -> str | None:
    """Return the scalar at `loc` as it is written, without quotes. None if there is no scalar, or no tree."""
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return None
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None
