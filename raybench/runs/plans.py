"""The plans that a run has had: which units they use, so that nothing in use is removed, and what has changed since.

runs/<name>/plans/<digest>.json   the units of a plan and what they depend on; the run's latest plan was written last
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field

from raybench.config.plan import Plan
from raybench.config.unit import ID_CHANGE, ID_VERSION, Unit
from raybench.errors import ObjectMissing
from raybench.runs.run import RunStore, decode, encode, versions
from raybench.store import Store, digest
from raybench.store.backend import ObjectInfo

FEW = 8
"""Names that are listed; more are counted."""


@dataclass(frozen=True)
class PlannedUnit:
    """A unit of a plan, and digests of what it depends on."""

    line: str
    model: str
    seed: int
    folders: tuple[str, str, str]
    """See `Unit.folders`."""
    training: str
    """Of the OK training images, of all lines that the detector is trained on."""
    images: str
    """Of all images of the line and their labels."""
    settings: str
    """Of the detector, its settings and weights, the size of its input, and how it is trained and judged."""
    timed_on: str
    """Name of the machine whose times count."""
    revision: str = ""
    """The experiment's."""

    @classmethod
    def of(cls, unit: Unit) -> PlannedUnit:
        return cls(
            line=unit.line,
            model=unit.model,
            seed=unit.seed,
            folders=unit.folders,
            training=digest([each.training_digest for each in unit.together] or unit.training_digest),
            images=unit.line_digest,
            settings=digest(
                [unit.detector, unit.deciding_config, dict(unit.weights), asdict(unit.input), asdict(unit.protocol)]
            ),
            timed_on=unit.timed_on,
            revision=unit.revision,
        )


@dataclass(frozen=True)
class PlanRecord:
    """A plan that a run has had."""

    id_version: int
    """Version of how units are identified, see `config.unit`."""
    units: tuple[PlannedUnit, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    """Installed versions by package. Empty of a plan of raybench before 0.2.0."""

    @property
    def folders(self) -> frozenset[str]:
        return frozenset(folder for unit in self.units for folder in unit.folders)


@dataclass(frozen=True)
class Uses:
    """The folders below `units/` of the plans that a run has had."""

    current: frozenset[str] = frozenset()
    """Those of its latest plan."""
    past: frozenset[str] = frozenset()
    """Those of earlier plans alone."""

    @property
    def all(self) -> frozenset[str]:
        return self.current | self.past


def record_plan(run: RunStore, plan: Plan) -> Callable[[], None]:
    """Make a plan the latest one of its run. Returns what takes that back, if the run did not have it before."""
    units = tuple(PlannedUnit.of(unit) for unit in plan.units)
    record = PlanRecord(ID_VERSION, units, versions())
    key = f"{_root(run)}{digest(sorted(record.folders))[:32]}.json"
    is_new = not run.store.exists(key)
    run.store.put(key, encode(record))
    return lambda: run.store.delete(key) if is_new else None


def uses_of(run: RunStore) -> Uses:
    """Return the folders below `units/` of the plans that the run has had.

    Raises:
        IntegrityError: The record of a plan is damaged.
    """
    items = list(run.store.list(_root(run)))
    folders = {item: _folders(run.store, item) for item in items}
    current = frozenset[str]().union(*(folders[item] for item in _latest(items)))
    return Uses(current, frozenset[str]().union(*folders.values()) - current)


def forget_plans(run: RunStore, older_s: float, existing: Set[str] = frozenset()) -> None:
    """Forget the plans that the run had before its latest one, so long ago, unless one of their folders exists."""
    items, now = list(run.store.list(_root(run))), run.store.clock()
    for item in set(items) - set(_latest(items)):
        if now - item.modified > older_s and not _folders(run.store, item) & existing:
            run.store.delete(item.key)


def changes_since(run: RunStore, plan: Plan) -> list[str]:
    """Say what `plan` has changed against the run's latest plan, and how many units that concerns.

    Raises:
        IntegrityError: The record of the latest plan is damaged.
    """
    latest = _latest(list(run.store.list(_root(run))))
    if not latest:
        return []
    before = decode(PlanRecord, run.store.get(latest[0].key), run.store.uri(latest[0].key))
    if before.id_version != ID_VERSION:
        made = f"raybench {before.versions['raybench']}" if before.versions else "an earlier raybench"
        return [f"{made} made the units of this run; all are done again, because {ID_CHANGE}"]
    was = {(unit.line, unit.model, unit.seed): unit for unit in before.units}
    now = {(unit.line, unit.model, unit.seed): PlannedUnit.of(unit) for unit in plan.units}
    groups: dict[str, list[PlannedUnit]] = defaultdict(list)
    for key in sorted(now.keys() & was.keys()):
        if reason := _reason(was[key], now[key]):
            groups[reason].append(now[key])
    texts = [f"{reason}: {_names(groups[reason], of)}" for reason, of in _REASONS if reason in groups]
    if new := [unit for key, unit in now.items() if key not in was]:
        texts.append(f"new: {_names(new, lambda unit: unit.model)}")
    if gone := [unit for key, unit in was.items() if key not in now]:
        texts.append(f"no longer in the experiment: {_names(gone, lambda unit: unit.model)}")
    if upgraded := [
        f"{name} {before.versions.get(name, 'none')} → {version}"
        for name, version in versions().items()
        if before.versions.get(name) != version
    ]:
        texts.append(f"{', '.join(upgraded)}; what is done stays as it is, another `revision` computes everything anew")
    return texts


_TRAINING, _SETTINGS, _REVISION, _IMAGES, _TIMED = (
    "other OK training images",
    "other settings",
    "another revision",
    "other test images, labels or masks",
    "timed on another machine",
)
_REASONS: Sequence[tuple[str, Callable[[PlannedUnit], str]]] = (
    (_TRAINING, lambda unit: unit.line),
    (_SETTINGS, lambda unit: unit.model),
    (_REVISION, lambda unit: unit.line),
    (_IMAGES, lambda unit: unit.line),
    (_TIMED, lambda unit: unit.line),
)
"""What may differ, with what is named: the lines or the models."""


def _reason(was: PlannedUnit, now: PlannedUnit) -> str:
    """Return the first thing that differs. Training images come before settings: the size of the input follows them."""
    if was.training != now.training:
        return _TRAINING
    if was.settings != now.settings:
        return _SETTINGS
    if was.revision != now.revision:
        return _REVISION
    if was.images != now.images:
        return _IMAGES
    return _TIMED if was.timed_on != now.timed_on else ""


def _names(units: Sequence[PlannedUnit], of: Callable[[PlannedUnit], str]) -> str:
    names = sorted({of(unit) for unit in units})
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more} ({len(units)} unit{'' if len(units) == 1 else 's'})"


def _latest(items: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return what was written last; several objects if the store's clock does not tell them apart."""
    newest = max((item.modified for item in items), default=0.0)
    return [item for item in items if item.modified == newest]


def _folders(store: Store, item: ObjectInfo) -> frozenset[str]:
    try:
        return decode(PlanRecord, store.get(item.key), store.uri(item.key)).folders
    except ObjectMissing:  # forgotten meanwhile
        return frozenset()


def _root(run: RunStore) -> str:
    return f"{run.root}/plans/"
