"""The ledger: copies of the commits of a run's finished units, in few objects.

runs/<name>/ledger/<sha256>.zip    results of finished units, and their scores of test and held-back images, by key

The commits remain the source of truth. A page contains only committed bytes, which never change, so a ledger is never
wrong, however stale it is and whoever wrote it; anything it lacks is read from the store. It saves listing and reading
every object of a long run. It holds the units of the present plan, and those of earlier ones since pages were merged.
(To have a unit done again, delete it, its detector, and `ledger/` of every run that has it.)

Of a page, its directory is read, which says what is done, and the stretches that somebody needs. Results come first,
and those of a line lie side by side, as do its scores: so what is about a line is read in a few requests, whatever the
number of lines. A damaged directory costs its page, a damaged entry itself alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import struct
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
from raybench.store import Store
from raybench.store.backend import ObjectInfo
from raybench.store.sparse import SparseFile

READERS = 16
FEW_PAGES = 8  # more pages are merged into one
DIRECTORY_BYTES = 128 * 1024  # read from the end of a page: the directory of some 450 units
GAP_BYTES = 256 * 1024  # that are read though nobody needs them, where that saves a request
_RESULT = "/finished.json"
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError)
State = Literal["waiting", "trained", "failed", "done"]


class _Page:
    """A page of a ledger: its directory, and those of its entries that have been fetched."""

    def __init__(self, store: Store, item: ObjectInfo, whole: bool) -> None:
        """Read the directory; `whole`: and everything else, in the same request.

        Raises ObjectMissing, or one of _DAMAGED.
        """
        self._store, self._key = store, item.key
        self._parts: dict[int, bytes] = {}
        self.fetch(0 if whole else max(0, item.size - DIRECTORY_BYTES), item.size)
        self._file = SparseFile(item.size, self._parts, lambda start, size: store.get_range(item.key, start, size))
        self._archive = zipfile.ZipFile(self._file)
        entries = sorted(self._archive.infolist(), key=lambda entry: entry.header_offset)
        starts = [*(entry.header_offset for entry in entries), self._archive.start_dir]
        if starts != sorted(starts) or starts[0] < 0 or starts[-1] > item.size:
            raise zipfile.BadZipFile("its directory is damaged")
        self.spans = {entry.filename: span for entry, span in zip(entries, itertools.pairwise(starts), strict=True)}
        """Where each entry begins and the next one does, in bytes."""

    def fetch(self, start: int, end: int) -> None:
        """Read a stretch of the page."""
        self._parts[start] = self._store.get_range(self._key, start, end - start)

    def missing(self, wanted: Callable[[str], bool]) -> list[tuple[int, int]]:
        """Return the stretches in which the wanted entries lie that have not been fetched."""
        stretches: list[tuple[int, int]] = []
        for name, (start, end) in self.spans.items():
            if not wanted(name) or self._file.held(start, end) is not None:
                continue
            if stretches and start - stretches[-1][1] <= GAP_BYTES:
                start = stretches.pop()[0]
            stretches.append((start, end))
        return stretches

    def get(self, name: str) -> bytes | None:
        """Return an entry; None if it is damaged, or has not been fetched."""
        if self._file.held(*self.spans[name]) is None:
            return None
        try:
            return self._archive.read(name)
        except _DAMAGED:
            return None


class Ledger:
    """The pages found in the store when the ledger was read: a `RecordCache` of committed bytes by key."""

    def __init__(self, run: RunStore, pages: dict[str, _Page]) -> None:
        self.run, self.pages = run, pages
        self._page_of = {name: page for page in pages.values() for name in page.spans}

    @classmethod
    def read(cls, run: RunStore, whole: bool = False) -> Ledger:
        """Read what the ledger holds of which units.

        Damaged pages are left out, and pages that another driver is merging into a larger one.

        Args:
            run: The run.
            whole: Fetch all its bytes too, a request per page.
        """
        items = [item for item in run.store.list(_root(run)) if item.key.endswith(".zip")]
        with ThreadPoolExecutor(READERS) as pool:
            pages = zip(items, pool.map(lambda item: _page(run, item, whole), items), strict=True)
            return cls(run, {item.key: page for item, page in pages if page is not None})

    @property
    def done(self) -> set[str]:
        """IDs of the finished units in the ledger."""
        return {self._folder(name) for name in self._page_of if name.endswith(_RESULT)}

    def fetch(self, units: Iterable[Unit], scores: bool = True) -> Ledger:
        """Fetch what the ledger holds of these units, and return the ledger.

        Args:
            units: Units of the run.
            scores: Whether their image scores are needed beside their results.
        """
        folders = {folder for unit in units for folder in unit.folders}
        self._fetch(lambda name: self._folder(name) in folders and (scores or name.endswith(_RESULT)))
        return self

    def get(self, key: str) -> bytes | None:
        """Return the committed bytes at `key`, None if they have not been fetched or the ledger does not have them."""
        page = self._page_of.get(key)
        return page.get(key) if page else None

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

    def merge(self, units: Iterable[Unit]) -> None:
        """Replace many pages by one with these units, those of the present plan.

        Safe if several drivers merge at once.
        """
        if len(self.pages) <= FEW_PAGES:
            return
        places: dict[str, int] = {}
        for place, unit in enumerate(sorted(units, key=lambda unit: unit.line)):
            for folder in unit.folders:
                places.setdefault(folder, place)
        kept = [name for name in self._page_of if self._folder(name) in places]
        self._keep(sorted(kept, key=lambda name: (not name.endswith(_RESULT), places[self._folder(name)])))

    def forget(self, unit_ids: Collection[str]) -> None:
        """Write the pages anew without these units. No driver may be at work on the run."""
        if self.done & set(unit_ids):
            self.run.store.delete(f"{_root(self.run)}report.json")  # says that all is done
            self._keep([name for name in self._page_of if self._folder(name) not in unit_ids])

    def _keep(self, names: Sequence[str]) -> None:
        """Replace the pages by one with these entries."""
        self._fetch(lambda name: True)
        entries = [(name, data) for name in names if (data := self.get(name)) is not None]
        written = _write(self.run, entries) if entries else ""
        for key in self.pages.keys() - {written}:
            self.run.store.delete(key)

    def _fetch(self, wanted: Callable[[str], bool]) -> None:
        def fetch(stretch: tuple[_Page, int, int]) -> None:
            page, start, end = stretch
            with contextlib.suppress(ObjectMissing):  # another driver has merged it
                page.fetch(start, end)

        stretches = [(page, *stretch) for page in self.pages.values() for stretch in page.missing(wanted)]
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(fetch, stretches))

    def _folder(self, name: str) -> str:
        """Return the folder of an entry: a unit's or a detector's ID."""
        return name[len(self.run.key("", "")) - 1 :].partition("/")[0]


def with_ledger(run: RunStore, units: Iterable[Unit]) -> RunStore:
    """Return the run, with what its ledger holds of these units at hand."""
    return RunStore(run.store, run.name, Ledger.read(run).fetch(units))


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


def read_statuses(plan: Plan, units: Sequence[Unit]) -> list[UnitStatus]:
    """Return how far these units of `plan` are. Nothing is read of others."""
    return unit_statuses(plan, units, Ledger.read(RunStore.of(plan)).commits(units))


def unit_statuses(plan: Plan, units: Sequence[Unit], commits: Mapping[str, set[str]]) -> list[UnitStatus]:
    """How far units of `plan` are. commits: unit_id → names of its commits and of its failure."""
    found = []
    for unit in units:
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
        entries.sort(key=lambda entry: (not entry[1].endswith(_RESULT), entry[0]))
        _write(run, (entry[1:] for entry in entries))


def _entries(run: RunStore, unit_id: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield what the ledger holds of a finished unit: line, key and bytes."""
    result = run.read(unit_id, "finished", UnitResult)
    if result is None:
        return
    key = run.key(unit_id, "finished.json")
    yield result.line, key, run.store.get(key)
    for blob in (result.judged.images, result.trained.held_out):
        yield result.line, blob.key, run.get_blob(blob)


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


def _page(run: RunStore, item: ObjectInfo, whole: bool) -> _Page | None:
    try:
        return _Page(run.store, item, whole)
    except (ObjectMissing, *_DAMAGED):
        return None


def _root(run: RunStore) -> str:
    return f"{run.root}/ledger/"
