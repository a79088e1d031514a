"""Which lines are packed where: names and patterns over them, in one store of lines or in several."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from raybench.data.manifest import manifest_key
from raybench.errors import InputError, did_you_mean
from raybench.store import Store


def packed_lines(lines: Store) -> list[str]:
    """Names of the lines whose manifest stands in `lines`, sorted."""
    return [path for path in _manifests(lines) if "/" not in path]


def matching_lines(lines: Store, patterns: Sequence[str]) -> list[str]:
    """Names of packed lines that match any of `patterns`. Raises InputError when one matches none."""
    packed, found = packed_lines(lines), []
    for pattern in patterns:
        names = fnmatch.filter(packed, pattern)
        if not names:
            raise InputError(f"{pattern!r} is not packed in {lines.uri()}; {did_you_mean(pattern, packed)}")
        found += names
    return sorted(set(found))


def find_lines(wanted: Iterable[tuple[Store, str]], problems: list[str]) -> dict[str, Store]:
    """By line, the store of lines that holds it. wanted: a store of lines and a name or pattern each; the lines come in
    this order, those of a pattern sorted.

    `problems` gets a sentence for each name or pattern that fits nothing, and for each line that two stores hold.
    """
    homes: dict[str, Store] = {}
    stores: dict[str, tuple[Store, list[str]]] = {}
    for given, pattern in wanted:
        if given.uri() not in stores:
            stores[given.uri()] = given, _manifests(given)
        lines, paths = stores[given.uri()]
        names = fnmatch.filter([path for path in paths if "/" not in path], pattern)
        if not names:
            problems.append(_not_packed(lines, pattern, paths))
        problems += [
            f"lines: {name!r} is packed in {home.uri()} and in {lines.uri()}; leave one of them out, or pack one again "
            "under another name"
            for name in names
            if (home := homes.setdefault(name, lines)) is not lines
        ]
    return homes


def _not_packed(lines: Store, pattern: str, paths: Sequence[str]) -> str:
    said = f"lines: {pattern!r} is not packed in {lines.uri()}"
    packed = [path for path in paths if "/" not in path]
    deeper = sorted({path.rpartition("/")[0] for path in paths if "/" in path})
    if packed:
        said += f"; {did_you_mean(pattern, packed)}"
    elif deeper:
        return f"{said}; there are lines further down: {lines.uri(f'{deeper[0]}/{pattern}')}"
    store, _, last = lines.uri().rpartition("/")
    return f"{said}; pack it with: raybench pack FOLDER --line {pattern} --to {store}" if last == "lines" else said


def _manifests(lines: Store) -> list[str]:
    """Paths of all folders that hold a manifest: a line's is its name; what lies deeper is no line of `lines`."""
    suffix = manifest_key("")
    return [item.key.removesuffix(suffix) for item in lines.list() if item.key.endswith(suffix)]
