"""Find packed lines by name or pattern, in one store of lines or in several."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from raybench.data.manifest import manifest_key
from raybench.errors import InputError, did_you_mean
from raybench.store import Store


def packed_lines(lines: Store) -> list[str]:
    """List the lines that have a manifest in `lines`, sorted by name."""
    return [path for path in _manifests(lines) if "/" not in path]


def matching_lines(lines: Store, patterns: Sequence[str]) -> list[str]:
    """List the packed lines that match any of `patterns`, sorted by name.

    Raises:
        InputError: A pattern matches no line.
    """
    packed, matches = packed_lines(lines), set[str]()
    for pattern in patterns:
        names = fnmatch.filter(packed, pattern)
        if not names:
            raise InputError(f"{pattern!r} is not packed in {lines.uri()}; {did_you_mean(pattern, packed)}")
        matches.update(names)
    return sorted(matches)


def find_lines(wanted: Iterable[tuple[Store, str]], problems: list[str]) -> dict[str, Store]:
    """Find the store of lines that holds each wanted line.

    Args:
        wanted: Pairs of a store of lines and a name or pattern.
        problems: Receives a sentence for each name or pattern without a match, and for each line that is in two stores.

    Returns:
        The store of each line, in the order of `wanted`. Matches of one pattern are sorted by name.
    """
    stores: dict[str, Store] = {}
    listed: dict[str, tuple[Store, list[str]]] = {}  # by URI, so that each store is listed once
    for store, pattern in wanted:
        if store.uri() not in listed:
            listed[store.uri()] = store, _manifests(store)
        lines, paths = listed[store.uri()]
        names = fnmatch.filter([path for path in paths if "/" not in path], pattern)
        if not names:
            problems.append(_not_packed(lines, pattern, paths))
        problems += [
            f"lines: {name!r} is packed in {other.uri()} and in {lines.uri()}; leave one of them out, or pack one "
            "again under another name"
            for name in names
            if (other := stores.setdefault(name, lines)) is not lines
        ]
    return stores


def _not_packed(lines: Store, pattern: str, paths: Sequence[str]) -> str:
    problem = f"lines: {pattern!r} is not packed in {lines.uri()}"
    packed = [path for path in paths if "/" not in path]
    deeper = sorted({path.rpartition("/")[0] for path in paths if "/" in path})
    if packed:
        problem += f"; {did_you_mean(pattern, packed)}"
    elif deeper:
        return f"{problem}; there are lines further down: {lines.uri(f'{deeper[0]}/{pattern}')}"
    store, _, last = lines.uri().rpartition("/")
    if last != "lines" or any(letter in pattern for letter in "*?["):  # a pattern names no line to pack
        return problem
    return f"{problem}; pack it with: raybench pack FOLDER --line {pattern} --to {store}"


def _manifests(lines: Store) -> list[str]:
    """List the folders that hold a manifest. A path without `/` is a line of `lines`; deeper ones are not."""
    suffix = manifest_key("")
    return [item.key.removesuffix(suffix) for item in lines.list() if item.key.endswith(suffix)]
