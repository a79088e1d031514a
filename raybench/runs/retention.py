"""What a store holds run by run, and the removal of what nobody needs any more.

Removed are
- bytes that no commit names: of attempts that were repeated, or of workers that died before their commit;
- on request, units that no run's latest plan has and that nothing has been written to for long: those of images,
  settings or models of the past, and their failures;
- a whole run, with the units that no other run uses.

Nothing that a kept commit names is removed, nor anything that a run at work uses. The ledgers forget units first, then
their commits go, then their heat maps, and at last the rest: so an interrupted removal leaves no commit that names
bytes which are gone, and frees the most first.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from raybench.errors import IntegrityError, ObjectMissing
from raybench.runs.at_work import AtWork, at_work_in, owner_of
from raybench.runs.costs import FOLDER as COSTS
from raybench.runs.ledger import Ledger
from raybench.runs.plans import forget_plans, uses_of
from raybench.runs.run import PREDICTIONS, RunStore
from raybench.store import Store
from raybench.store.backend import ObjectInfo

THREADS = 16
DAY_S = 86400.0
YOUNG_S = DAY_S  # bytes without a commit may be of a task that is about to commit
KINDS = ("commits", "heat maps", "detectors", "other bytes", "failures")
UNITS = "units/"


@dataclass(frozen=True)
class RunInfo:
    """A run as an inventory shows it, with the units of its plans. What several runs use counts for each of them."""

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


@dataclass(frozen=True)
class Inventory:
    """What a store holds."""

    runs: tuple[RunInfo, ...]
    """Its runs, by name."""
    size: int
    """Bytes of all runs and units, each counted once."""
    unused: int
    """Bytes of units that no plan of any run has."""


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
    """What can be removed from a store."""

    units: Set[str] = frozenset()
    """Folders below `units/` that go as a whole."""
    orphans: list[ObjectInfo] = field(default_factory=list)
    """Objects without a commit in the folders that stay, and old failures of units that their run has no more."""
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


def inventory(store: Store) -> Inventory:
    """Describe the runs of a store. All their objects are listed, those of several runs at once."""
    folders, at_work = _folders(store), at_work_in(store)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(functools.partial(_info, folders, at_work), runs_in(store)))
    used = frozenset[str]().union(*(used for _, used, _ in found))
    unused = sum(folder.size for name, folder in folders.items() if name not in used)
    in_units = sum(folder.size for folder in folders.values())
    return Inventory(tuple(info for info, _, _ in found), in_units + sum(own for _, _, own in found), unused)


def _info(
    folders: Mapping[str, _Folder], at_work: Iterable[AtWork], run: RunStore
) -> tuple[RunInfo, frozenset[str], int]:
    """Describe a run; return the folders that it uses and the bytes of its own objects as well."""
    uses = uses_of(run).all
    used = [folders[name] for name in uses if name in folders]
    own = Share()
    written = max((folder.written for folder in used), default=0.0)
    for item in run.store.list(f"{run.root}/"):
        written = max(written, item.modified)
        own.add(1, item.size)
    here = tuple(other for other in at_work if other.run == run.name)
    objects, size = own.objects + sum(each.objects for each in used), own.size + sum(each.size for each in used)
    units = sum(folder.is_finished for folder in used)
    return RunInfo(run.name, owner_of(run), written, units, objects, size, here), uses, own.size


def kind_of(key: str) -> str:
    """Return the kind of an object below `units/`, or of a failure, by its key."""
    if not key.startswith(UNITS):
        return "failures"
    if key.endswith(".json"):
        return "commits"
    return {"scores": "heat maps", "model": "detectors"}.get(key.split("/")[2], "other bytes")


def waste_of(store: Store, older_s: float | None = None) -> Waste:
    """Find what can be removed from a store. Memory grows with the units, not with their objects.

    Args:
        store: The store.
        older_s: Also remove units that no run's latest plan has and that were last written to so many seconds ago.
            None: to remove no units.

    Raises:
        IntegrityError: A commit that is kept is damaged, so that it is not known what it names.
    """
    now, folders, runs = store.clock(), _folders(store), runs_in(store)
    busy = _used_at_work(store)
    kept = set(folders)
    if older_s is not None:
        current = busy.union(*(uses_of(run).current | _predicting(run) for run in runs))
        kept = {name for name, folder in folders.items() if name in current or now - folder.written < older_s}
    orphans = _orphans(store, kept, folders.keys(), busy)
    old = [item for item in orphans if now - item.modified > YOUNG_S]
    if older_s is not None:
        old += [item for item in _past_failures(store, runs) if now - item.modified > older_s]
    return _waste(folders, folders.keys() - kept, old)


def waste_of_run(run: RunStore) -> Waste:
    """Find the units that a run uses and no other run does."""
    folders = _folders(run.store)
    others = [uses_of(other).all | _predicting(other) for other in runs_in(run.store) if other.name != run.name]
    kept = _used_at_work(run.store).union(*others)
    return _waste(folders, (uses_of(run).all & folders.keys()) - kept, [])


def remove_waste(store: Store, waste: Waste) -> None:
    """Remove what `waste_of` has found, within `at_work.removing`."""
    busy = _runs_at_work(store)
    for run in runs_in(store):
        if run.name not in busy:
            Ledger.read(run).forget(waste.units)
    prefixes = [f"{UNITS}{name}/" for name in sorted(waste.units)]
    for kinds in (("commits",), ("heat maps",), KINDS):
        _remove_below(store, prefixes, lambda key, kinds=kinds: kind_of(key) in kinds)  # type: ignore[misc]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda item: store.delete(item.key), waste.orphans))


def forget_past_plans(store: Store, older_s: float) -> None:
    """Forget the plans of long ago of which no unit is left, except of runs at work, within `at_work.removing`."""
    busy, existing = _runs_at_work(store), frozenset(store.folders(UNITS))
    for run in runs_in(store):
        if run.name not in busy:
            forget_plans(run, older_s, existing)


def remove_run(run: RunStore) -> None:
    """Remove a run with its predictions, its recorded costs and the units that no other run uses.

    Call it within `at_work.removing`.
    """
    _remove_below(run.store, [f"{run.root}/ledger/"])
    remove_waste(run.store, waste_of_run(run))
    below = [f"{run.root}/{name}/" for name in run.store.folders(f"{run.root}/")]
    _remove_below(run.store, below, lambda key: key.endswith(".json"))
    _remove_below(run.store, [*below, f"{run.root}/"])
    run.store.delete(f"{COSTS}{run.name}.json")


def _runs_at_work(store: Store) -> set[str]:
    """Return the names of the runs that something works on; what removes objects does not."""
    return {other.run for other in at_work_in(store) if not other.alone}


def _past_failures(store: Store, runs: Iterable[RunStore]) -> Iterator[ObjectInfo]:
    """List the failures of units that are not in their run's latest plan; of runs at work none."""
    busy = _runs_at_work(store)
    for run in (run for run in runs if run.name not in busy):
        current = uses_of(run).current
        failures = store.list(f"{run.root}/failures/")
        yield from (item for item in failures if PurePosixPath(item.key).stem not in current)


def _predicting(run: RunStore) -> frozenset[str]:
    """Return the folders below `units/` whose detectors the run's predictions name."""
    keys, others = set[str](), set[str]()
    for name in run.store.folders(f"{run.root}{PREDICTIONS}"):
        prediction = run.prediction(name)
        for folder in run.store.folders(f"{prediction.units_root}/"):
            try:
                _refer(_parsed(run.store, prediction.key(folder, "train.json")), keys, others)
            except ObjectMissing:  # a folder of scores
                continue
    return frozenset(_folder_of(key) for key in keys)


def _used_at_work(store: Store) -> frozenset[str]:
    """Return the folders below `units/` that runs at work use, or have in their ledgers."""
    runs = [RunStore(store, name) for name in _runs_at_work(store)]
    return frozenset[str]().union(*(uses_of(run).all | Ledger.read(run).done for run in runs))


def _waste(folders: Mapping[str, _Folder], units: Set[str], orphans: list[ObjectInfo]) -> Waste:
    waste = Waste(units, orphans)
    for name in units:
        for kind, share in folders[name].shares.items():
            waste.shares[kind].add(share.objects, share.size)
    for item in orphans:
        waste.shares[kind_of(item.key)].add(1, item.size)
    return waste


def _remove_below(store: Store, prefixes: Iterable[str], wanted: Callable[[str], bool] = lambda key: True) -> None:
    """Remove the objects below these prefixes that are wanted."""

    def remove(prefix: str) -> None:
        for item in store.list(prefix):
            if wanted(item.key):
                store.delete(item.key)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(remove, prefixes))


@dataclass
class _Folder:
    """A unit's or a detector's folder below `units/`."""

    written: float = 0.0
    """When its latest object was written."""
    is_finished: bool = False
    """Whether it has the result of a unit."""
    shares: dict[str, Share] = field(default_factory=dict)
    """Its objects, by kind."""

    @property
    def objects(self) -> int:
        return sum(share.objects for share in self.shares.values())

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(share.size for share in self.shares.values())


def _folders(store: Store) -> Mapping[str, _Folder]:
    """Describe all folders below `units/`."""
    folders: defaultdict[str, _Folder] = defaultdict(_Folder)
    for item in store.list(UNITS):
        folder = folders[_folder_of(item.key)]
        folder.written = max(folder.written, item.modified)
        folder.is_finished |= item.key.endswith("/finished.json")
        folder.shares.setdefault(kind_of(item.key), Share()).add(1, item.size)
    return folders


def _folder_of(key: str) -> str:
    return key.split("/")[1]


def _orphans(store: Store, kept: set[str], existing: Set[str], busy: Set[str]) -> list[ObjectInfo]:
    """List the objects in kept folders that no commit in a kept folder names.

    kept: grows by the folders that its commits refer to.
    busy: folders whose objects may get a commit at any time.
    """
    unnamed, named, read = list[ObjectInfo](), set[str](), set[str]()
    with ThreadPoolExecutor(THREADS) as pool:
        while unread := kept - read:
            read |= unread
            for rest, keys, others in pool.map(functools.partial(_read, store), unread):
                unnamed += [item for item in rest if _folder_of(item.key) not in busy]
                named |= keys
                kept |= existing & (others | {_folder_of(key) for key in keys})
    return [item for item in unnamed if item.key not in named]


def _read(store: Store, name: str) -> tuple[list[ObjectInfo], set[str], set[str]]:
    """Read the commits of a folder.

    Returns:
        The folder's objects that they do not name, the keys outside it that they name, and the units and detectors
        that they refer to.
    """
    items = list(store.list(f"{UNITS}{name}/"))
    keys, others = set[str](), set[str]()
    for item in items:
        if item.key.endswith(".json"):
            _refer(_parsed(store, item.key), keys, others)
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
        if {"key", "sha256"} <= value.keys() and value["key"].startswith(UNITS):
            keys.add(value["key"])
        others.update(str(value[name]) for name in ("unit_id", "detector_id") if name in value)
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _refer(part, keys, others)
