"""The ledger: copies of the commits of a run's finished units, in few objects.

runs/<name>/ledger/<sha256>.zip    results of finished units, and their scores of test and held-back images, by key

The commits remain the source of truth. A page contains only committed bytes, which never change, so a ledger is never
wrong, however stale it is and whoever wrote it; anything it lacks is read from the store. It saves listing and reading
every object of a long run. It holds the units of the present plan, and those of earlier ones since pages were merged.
(To have a unit done again, delete it, its detector, and `ledger/` of every run that has it.)
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.errors import ObjectMissing
from raybench.runs.records import UnitResult
from raybench.runs.run import RunStore, scored_name

READERS = 16
FEW_PAGES = 8  # more pages are merged into one
_RESULT = "/finished.json"
State = Literal["waiting", "trained", "failed", "done"]


class Ledger:
    """The pages found in the store when the ledger was read: a `RecordCache` of committed bytes by key."""

    def __init__(self, run: RunStore, pages: dict[str, zipfile.ZipFile]) -> None:
        self.run, self.pages = run, pages
        self._page_of = {name: page for page in pages.values() for name in page.namelist()}

    @classmethod
    def read(cls, run: RunStore) -> Ledger:
        """Read all pages, except damaged ones and ones that another driver is merging into a larger page."""
        keys = [item.key for item in run.store.list(_root(run)) if item.key.endswith(".zip")]
        with ThreadPoolExecutor(READERS) as pool:
            pages = zip(keys, pool.map(lambda key: _page(run, key), keys), strict=True)
            return cls(run, {key: page for key, page in pages if page is not None})

    @property
    def done(self) -> set[str]:
        """IDs of the finished units in the ledger."""
        start = len(self.run.key("", "")) - 1
        return {name[start : -len(_RESULT)] for name in self._page_of if name.endswith(_RESULT)}

    def get(self, key: str) -> bytes | None:
        """Return the committed bytes at `key`, None if the ledger does not have them."""
        page = self._page_of.get(key)
        try:
            return page.read(key) if page else None
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return None

    def commits(self, units: Sequence[Unit]) -> dict[str, set[str]]:
        """Return by unit_id the names of each unit's commits, of its detector's, and `failure` if the run failed on it.

        Of a detector that is trained on several lines together, they include `fit`.

        Of a finished unit it is only `finished`. A unit without any is left out.
        """
        done = self.done
        commits = {unit.unit_id: {"finished"} for unit in units if unit.unit_id in done}
        rest = [unit for unit in units if unit.unit_id not in done]
        if not rest:
            return commits
        listed, failed = self.run.commits({folder for unit in rest for folder in unit.folders}), self.run.failures()
        for unit in rest:
            names = set().union(*(listed.get(folder, set()) for folder in unit.folders))
            if unit.unit_id in failed:
                names.add("failure")
            if names:
                commits[unit.unit_id] = names
        return commits

    def merge(self, folders: Collection[str]) -> None:
        """Replace many pages by one with what lies in these folders, of units and detectors of the present plan.

        A ledger is read as a whole. Safe if several drivers merge at once.
        """
        if len(self.pages) > FEW_PAGES:
            self._keep(lambda folder: folder in folders)

    def forget(self, unit_ids: Collection[str]) -> None:
        """Write the pages anew without these units. No driver may be at work on the run."""
        if self.done & set(unit_ids):
            self.run.store.delete(f"{_root(self.run)}report.json")  # says that all is done
            self._keep(lambda unit_id: unit_id not in unit_ids)

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        """Replace the pages by one with the wanted units."""
        start = len(self.run.key("", "")) - 1
        kept = [name for name in self._page_of if wanted(name[start:].partition("/")[0])]
        entries = [(name, data) for name in kept if (data := self.get(name)) is not None]
        written = _write(self.run, entries) if entries else ""
        for key in self.pages.keys() - {written}:
            self.run.store.delete(key)


@dataclass(frozen=True)
class UnitStatus:
    """How far a unit is. scored_shards: of `shards`; of a unit that is done, all."""

    unit_id: str
    line: str
    model: str
    seed: int
    state: State
    scored_shards: int
    shards: int

    @property
    def text(self) -> str:
        if self.state == "failed":
            return "failed; the same command tries it again"
        if self.state == "trained":
            if self.scored_shards == self.shards:
                return "scored, to be judged"
            return f"trained, {self.scored_shards} of {self.shards} shards scored"
        return self.state


def unit_statuses(plan: Plan, commits: Mapping[str, set[str]]) -> list[UnitStatus]:
    """How far each unit of `plan` is. commits: unit_id → names of its commits and of its failure."""
    found = []
    for unit in plan.units:
        names, manifest = commits.get(unit.unit_id, set()), plan.manifests[unit.line]
        shards = len(manifest.scored_shards)
        state = _state(names)
        scored = shards if state == "done" else sum(scored_name(shard) in names for shard in manifest.scored_shards)
        found.append(UnitStatus(unit.unit_id, unit.line, unit.model, unit.seed, state, scored, shards))
    return found


def _state(names: set[str]) -> State:
    if "finished" in names:
        return "done"
    if "failure" in names:
        return "failed"
    return "trained" if "train" in names else "waiting"


def append_to_ledger(run: RunStore, unit_ids: Iterable[str]) -> None:
    """Write a page with these units, except units without a committed result."""
    with ThreadPoolExecutor(READERS) as pool:
        entries = [entry for unit in pool.map(lambda unit_id: list(_entries(run, unit_id)), unit_ids) for entry in unit]
    if entries:
        _write(run, entries)


def _entries(run: RunStore, unit_id: str) -> Iterator[tuple[str, bytes]]:
    result = run.read(unit_id, "finished", UnitResult)
    if result is None:
        return
    key = run.key(unit_id, "finished.json")
    yield key, run.store.get(key)
    for blob in (result.judged.images, result.trained.held_out):
        yield blob.key, run.get_blob(blob)


def _write(run: RunStore, entries: Iterable[tuple[str, bytes]]) -> str:
    """Write a page and return its key."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as page:
        for key, data in dict(entries).items():  # units that share a detector share its held-back images
            # Without a date in the entry, the same units make the same page.
            page.writestr(zipfile.ZipInfo(key), data, zipfile.ZIP_DEFLATED)
    data = sink.getvalue()
    page_key = f"{_root(run)}{hashlib.sha256(data).hexdigest()[:32]}.zip"
    run.store.put(page_key, data)
    return page_key


def _page(run: RunStore, key: str) -> zipfile.ZipFile | None:
    try:
        return zipfile.ZipFile(io.BytesIO(run.store.get(key)))
    except (ObjectMissing, zipfile.BadZipFile):
        return None


def _root(run: RunStore) -> str:
    return f"{run.root}/ledger/"
