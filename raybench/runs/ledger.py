"""What a run has finished, in few objects: copies of commits that can never change.

runs/<name>/ledger/<sha256>.zip    result, quality and image scores of finished units, under their own keys

The commits remain the truth. A page holds nothing but committed bytes, so whatever a ledger says is right, however
stale it is and whoever wrote it; what it does not say is looked up in the store. It saves listing and reading every
object of a long run. (Whoever deletes a unit by hand to have it done again deletes `ledger/` with it.)
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from raybench.errors import ObjectMissing
from raybench.runs.records import QualityRecord, UnitResult
from raybench.runs.run import Run

READERS = 16
FEW_UNITS = 256  # up to so many unknown units are listed one by one, more of them by listing the whole run
FEW_PAGES = 8
_RESULT = "/result.json"


class Ledger:
    """The pages that stood in the store when it was read. A mapping from keys to committed bytes, for `Run`."""

    def __init__(self, run: Run, pages: dict[str, zipfile.ZipFile]) -> None:
        self.run, self.pages = run, pages
        self._page_of = {name: page for page in pages.values() for name in page.namelist()}

    @classmethod
    def read(cls, run: Run) -> Ledger:
        """A page that is damaged, or that another driver has just merged into a larger one, is left out."""
        keys = [item.key for item in run.store.list(_root(run)) if item.key.endswith(".zip")]
        with ThreadPoolExecutor(READERS) as pool:
            found = zip(keys, pool.map(lambda key: _page(run, key), keys), strict=True)
            return cls(run, {key: page for key, page in found if page is not None})

    @property
    def done(self) -> set[str]:
        """unit_ids of the finished units that it knows."""
        start = len(self.run.key("", "")) - 1
        return {name[start : -len(_RESULT)] for name in self._page_of if name.endswith(_RESULT)}

    def get(self, key: str) -> bytes | None:
        """The committed bytes at `key`, or None where this ledger does not have them."""
        page = self._page_of.get(key)
        try:
            return page.read(key) if page else None
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return None

    def commits(self, unit_ids: Sequence[str]) -> dict[str, set[str]]:
        """unit_id → names of its commits and of its failure; of a finished unit `result` alone."""
        done = self.done
        found = {unit_id: {"result"} for unit_id in unit_ids if unit_id in done}
        rest = [unit_id for unit_id in unit_ids if unit_id not in done]
        if len(rest) > FEW_UNITS:
            listed = self.run.commits()
            return found | {unit_id: listed[unit_id] for unit_id in rest if unit_id in listed}
        with ThreadPoolExecutor(READERS) as pool:
            for names in pool.map(self.run.commits, rest):
                found |= names
        return found

    def merge(self) -> None:
        """Put one page in the place of many. Of two drivers that do so at once neither loses anything."""
        if len(self.pages) > FEW_PAGES:
            merged = _write(self.run, ((name, page.read(name)) for name, page in self._page_of.items()))
            for key in self.pages.keys() - {merged}:
                self.run.store.delete(key)


def append_to_ledger(run: Run, unit_ids: Iterable[str]) -> None:
    """Write a page of these units; those without a committed result are left out."""
    with ThreadPoolExecutor(READERS) as pool:
        entries = [entry for unit in pool.map(lambda unit_id: list(_entries(run, unit_id)), unit_ids) for entry in unit]
    if entries:
        _write(run, entries)


def _entries(run: Run, unit_id: str) -> Iterator[tuple[str, bytes]]:
    merged = run.read(unit_id, "quality", QualityRecord)
    if merged is None or run.read(unit_id, "result", UnitResult) is None:
        return
    for name in ("quality.json", "result.json"):
        key = run.key(unit_id, name)
        yield key, run.store.get(key)
    yield merged.images.key, run.get_blob(merged.images)


def _write(run: Run, entries: Iterable[tuple[str, bytes]]) -> str:
    """Returns the page's key."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as page:
        for key, data in entries:
            page.writestr(zipfile.ZipInfo(key), data, zipfile.ZIP_DEFLATED)  # no date: the same units, the same page
    data = sink.getvalue()
    page_key = f"{_root(run)}{hashlib.sha256(data).hexdigest()[:32]}.zip"
    run.store.put(page_key, data)
    return page_key


def _page(run: Run, key: str) -> zipfile.ZipFile | None:
    try:
        return zipfile.ZipFile(io.BytesIO(run.store.get(key)))
    except (ObjectMissing, zipfile.BadZipFile):
        return None


def _root(run: Run) -> str:
    return f"{run.root}/ledger/"
