"""What a store holds run by run, and the removal of what nobody needs any more.

Removed are a whole run, or from a run
- bytes that no commit names: of attempts that were repeated, or of workers that died before their commit;
- on request, units that the run's experiment does not name any more and that nothing has been written to for long:
  those of images, settings or models of the past.

Nothing that a kept commit names is removed. The ledger forgets units first, then their commits go, then their heat
maps, and at last the rest: so an interrupted removal leaves no commit that names bytes which are gone, and frees the
most first.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from raybench.config.plan import Plan
from raybench.errors import IntegrityError
from raybench.runs.at_work import AtWork, at_work_on, owner_of
from raybench.runs.costs import FOLDER as COSTS
from raybench.runs.ledger import Ledger
from raybench.runs.run import RunStore
from raybench.store import Store
from raybench.store.backend import ObjectInfo

THREADS = 16
DAY_S = 86400.0
YOUNG_S = DAY_S  # bytes without a commit may be of a task that is about to commit
KINDS = ("commits", "heat maps", "detectors", "other bytes")


@dataclass(frozen=True)
class RunInfo:
    """A run as an inventory shows it."""

    name: str
    """Its name."""
    owner: str
    """Who began it; empty if that is not known."""
    written: float
    """When an object of it was last written, in seconds since 1970."""
    units: int
    """Units that are done."""
    objects: int
    """All its objects."""
    size: int
    """Their bytes."""
    at_work: tuple[AtWork, ...] = ()
    """Processes that work on it now."""


@dataclass
class Share:
    """Objects of one kind."""

    objects: int = 0
    size: int = 0

    def add(self, objects: int, size: int) -> None:
        """Count objects."""
        self.objects += objects
        self.size += size


@dataclass
class Waste:
    """What can be removed from a run."""

    units: set[str] = field(default_factory=set)
    """Folders below `units/` that go as a whole."""
    orphans: list[ObjectInfo] = field(default_factory=list)
    """Objects without a commit in the folders that stay."""
    shares: dict[str, Share] = field(default_factory=lambda: {kind: Share() for kind in KINDS})
    """How much it is, by kind."""

    @property
    def objects(self) -> int:
        return sum(share.objects for share in self.shares.values())

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(share.size for share in self.shares.values())


def runs_in(store: Store) -> list[RunStore]:
    """List the runs of a store, by name."""
    return [RunStore(store, name) for name in store.folders("runs/")]


def inventory(runs: Iterable[RunStore]) -> Iterator[RunInfo]:
    """Describe runs. All objects of each are listed, those of several runs at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(_info, runs)


def _info(run: RunStore) -> RunInfo:
    written, units, objects, size = 0.0, 0, 0, 0
    for item in run.store.list(f"{run.root}/"):
        written, size, objects = max(written, item.modified), size + item.size, objects + 1
        units += item.key.endswith("/finished.json") and item.key.startswith(f"{run.root}/units/")
    return RunInfo(run.name, owner_of(run), written, units, objects, size, tuple(at_work_on(run)))


def kind_of(key: str) -> str:
    """Return the kind of an object below a run's `units/`, by its key."""
    if key.endswith(".json"):
        return "commits"
    folder = key.split("/units/", 1)[-1].split("/")[1]
    return {"scores": "heat maps", "model": "detectors"}.get(folder, "other bytes")


def waste_of(run: RunStore, current: Plan | None, older_s: float) -> Waste:
    """Find what can be removed from a run. Memory grows with the units, not with their objects.

    Args:
        run: The run.
        current: Its plan, to remove units that are not in it. None: to remove no units.
        older_s: Seconds since the last object of such a unit was written.

    Raises:
        IntegrityError: A commit that is kept is damaged, so that it is not known what it names.
    """
    now, folders = run.store.clock(), _folders(run)
    kept = set(folders)
    if current:
        young = {name for name, folder in folders.items() if now - folder.written < older_s}
        kept &= _ids(current) | young
    orphans = _orphans(run, kept, folders.keys())
    waste = Waste(folders.keys() - kept, [item for item in orphans if now - item.modified > YOUNG_S])
    for name in waste.units:
        for kind, share in folders[name].shares.items():
            waste.shares[kind].add(share.objects, share.size)
    for item in waste.orphans:
        waste.shares[kind_of(item.key)].add(1, item.size)
    return waste


def remove_waste(run: RunStore, waste: Waste) -> None:
    """Remove what `waste_of` has found. Call it while nobody else works on the run, see `at_work`."""
    Ledger.read(run).forget(waste.units)
    prefixes = [f"{run.root}/units/{name}/" for name in sorted(waste.units)]
    for kinds in (("commits",), ("heat maps",), KINDS):
        _remove_below(run.store, prefixes, lambda key, kinds=kinds: kind_of(key) in kinds)  # type: ignore[misc]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda item: run.store.delete(item.key), waste.orphans))


def remove_run(run: RunStore) -> None:
    """Remove a run with its predictions and its recorded costs. Call it while nobody else works on it."""
    below = [f"{run.root}/{name}/" for name in run.store.folders(f"{run.root}/") if name != "at-work"]
    _remove_below(run.store, [f"{run.root}/ledger/"])
    _remove_below(run.store, below, lambda key: key.endswith(".json"))
    _remove_below(run.store, below)
    for item in run.store.list(f"{run.root}/"):
        if not item.key.startswith(f"{run.root}/at-work/"):
            run.store.delete(item.key)
    run.store.delete(f"{COSTS}{run.name}.json")


def _remove_below(store: Store, prefixes: Iterable[str], wanted: Callable[[str], bool] = lambda key: True) -> None:
    """Remove the objects below these prefixes that are wanted."""

    def remove(prefix: str) -> None:
        for item in store.list(prefix):
            if wanted(item.key):
                store.delete(item.key)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(remove, prefixes))


def _ids(plan: Plan) -> set[str]:
    """Return the names of the folders below `units/` that a plan's units use."""
    return {name for unit in plan.units for name in (unit.unit_id, unit.detector_id, unit.fit_id)}


@dataclass
class _Folder:
    """A unit's or a detector's folder below `units/`."""

    written: float = 0.0
    """When its latest object was written."""
    shares: dict[str, Share] = field(default_factory=dict)
    """Its objects, by kind."""


def _folders(run: RunStore) -> Mapping[str, _Folder]:
    """Describe all folders below `units/`."""
    folders: defaultdict[str, _Folder] = defaultdict(_Folder)
    for item in run.store.list(f"{run.root}/units/"):
        folder = folders[_folder_of(item.key)]
        folder.written = max(folder.written, item.modified)
        folder.shares.setdefault(kind_of(item.key), Share()).add(1, item.size)
    return folders


def _folder_of(key: str) -> str:
    return key.split("/units/", 1)[1].partition("/")[0]


def _orphans(run: RunStore, kept: set[str], existing: Set[str]) -> list[ObjectInfo]:
    """List the objects in kept folders that no commit in a kept folder names.

    kept: grows by the folders that its commits refer to.
    """
    unnamed, named, read = list[ObjectInfo](), set[str](), set[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        while unread := kept - read:
            read |= unread
            for rest, keys, others in pool.map(functools.partial(_read, run), unread):
                unnamed += rest
                named |= keys
                kept |= existing & (others | {_folder_of(key) for key in keys})
    return [item for item in unnamed if item.key not in named]


def _read(run: RunStore, name: str) -> tuple[list[ObjectInfo], set[str], set[str]]:
    """Read the commits of a folder.

    Returns:
        The folder's objects that they do not name, the keys outside it that they name, and the units and detectors
        that they refer to.
    """
    items = list(run.store.list(run.key(name, "")))
    keys, others = set[str](), set[str]()
    for item in items:
        if item.key.endswith(".json"):
            _refer(_parsed(run.store, item.key), keys, others)
    rest = [item for item in items if item.key not in keys and not item.key.endswith(".json")]
    return rest, {key for key in keys if _folder_of(key) != name}, others


def _parsed(store: Store, key: str) -> Any:
    try:
        return json.loads(store.get(key))
    except ValueError as error:
        raise IntegrityError(f"{store.uri(key)} is damaged ({error}); see `raybench verify`") from error


def _refer(value: Any, keys: set[str], others: set[str]) -> None:
    """Add the keys of the bytes that a commit names, and the units and detectors that it refers to."""
    if isinstance(value, dict):
        if {"key", "sha256"} <= value.keys() and "/units/" in value["key"]:
            keys.add(value["key"])
        others.update(str(value[name]) for name in ("unit_id", "detector_id") if name in value)
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _refer(part, keys, others)
